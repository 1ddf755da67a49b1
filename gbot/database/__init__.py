"""Databases that speak MySQL's protocol: where one is, connections to it, and the pool that handlers share.

::

    opening ──▶ client ──▶ pool ──▶ growth ──▶ outage
       │           │        └──────────┴──▶ place
       │           └──▶ connection ──▶ PyMySQL, address
       └──▶ limits ──▶ sizing
"""
