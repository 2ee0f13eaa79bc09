"""Managed engines: inference servers that run as programs of their own, under this node's lifecycle.

`engine` says what there is to know of one, `known` holds the rows of those that are known, `harness` keeps
their models, each a `server` process under a `guard`.
"""
