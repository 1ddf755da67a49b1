"""How many servers a load needs, and what of a database each may have: ``gbot plan``.

::

    finding ──▶ costs ──▶ plan ──▶ screens ──▶ verdict    measure   runs the author's handlers for a while
                           rds ──▶ rds_screens            kinds     units of what is asked for
                                                          words     how numbers, units and rows are written
"""
