"""The inboxes, and how each is built; :mod:`gbot.inbox` and :mod:`gbot.directory` have the contracts.

::

    memory              memory: entries live as long as the worker
    memory_directory    its users and states

    durable             one worker's side of any store: one greenlet, one turn at a time
    ├── parcels         deliveries on their way into the store
    ├── records         what handlers ask and save about users and states, put to the store together
    ├── overlay         changes that are settled and not written yet, over what the store answers
    ├── health          whether the store can be used, and what the log says about it
    └── calls           how a store is called, so that the hub never waits for it

    store               the contract of a store and of its desks, and what is in a row
    changes             what changes of users and states come to
    chunks              many rows in parts
    desk                work by hand on entries, in SQL for every database
    desk_users          work by hand on users

    sqlite              the SQLite store: connection, transactions, errors
    ├── sqlite_file     the file and its schema
    ├── sqlite_lives    which workers are alive, by the kernel's locks
    ├── sqlite_turn     settle, put and claim
    ├── sqlite_records  users and states
    └── sqlite_upkeep   what comes back, what is old

    mysql               the MySQL store: connection, heartbeat, transactions
    ├── mysql_schema    the tables and their versions
    ├── mysql_turn      settle, store and hand out
    ├── mysql_records   users and states
    ├── mysql_upkeep    what comes back, what is old
    └── mysql_tables    locks of conversations, and what the others share
"""
