"""Databases that speak MySQL's protocol: where one is, connections to it, and the pool that handlers share.

::

    opening ──▶ client ──▶ lender ──▶ pool ──▶ growth ──▶ outage
       │           │          │        └──▶ notices ──▶ place
       ├───────────┴──────────┴──▶ connector ──▶ connection ──▶ wire, values, failures ──▶ PyMySQL
       └──▶ limits ──▶ sizing

``connector``, ``connection``, ``wire`` and ``failures`` are the one door to PyMySQL.
"""
