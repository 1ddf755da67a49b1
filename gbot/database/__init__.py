"""Databases that speak MySQL's protocol: where one is, connections to it, and the pool that handlers share.

::

    client ──▶ pool ──▶ connection ──▶ PyMySQL        sizing      what a server allows, and what of it a node may take
                                  └──▶ address        limits      reads it from the server
"""
