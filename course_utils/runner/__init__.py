"""Running many notebooks headless: one after the other, or several at a time."""
