"""The checks of ``gbot check``: each looks at one thing that ``gbot serve`` needs, and changes nothing.

::

    settings  machine  port  certificate  inbox  database  api
        └────────┴───────┴────────┬─────────┴───────┴───────┘
                                  ▼
                     finding  clock      (pure: what was found, and what others' clocks say of this one's)

``server`` is what the inbox and the database have in common: a MySQL server. ``inbox_server`` looks at what
the inbox alone asks of it: that it keeps what it has stored. ``app`` runs the author's module.
"""
