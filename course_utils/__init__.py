"""The package behind the notebooks. Imports run one way, from the top of this list to its bottom:

``runner`` (many notebooks), ``reporting`` (records, tables, READMEs), ``training``, ``evaluation``, ``analysis``
(receptive fields, rules), ``data``, ``augment``, ``models``; ``config`` defines a run.
"""
