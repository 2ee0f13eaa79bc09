"""The documentation's generated parts: `python -m docs.generate` makes the site's source and the man pages.

From the models of settings, the commands and the OpenAPI schemas; nothing of it is kept in the tree.
"""
