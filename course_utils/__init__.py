"""The one package behind the four notebooks: data, augmentation, networks, training, evaluation, records."""
