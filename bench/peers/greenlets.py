"""What the peers on gunicorn's gevent worker share: every message runs in a greenlet of its own.

gunicorn patches the standard library before it loads this. The connections are PyMySQL's in DBUtils' PooledDB, as its
guide has it: one pool for the module, a connection taken for a query and closed after it, which gives it back. By
itself it would ask the server twice more each time, whether it is there and to undo what was left; no other peer does.
"""

import random
import time
from contextlib import closing

import gevent
from asked import DB_POOL, NAP_S, QUESTION, SCENARIO, Tally, database

tally = Tally()

if SCENARIO == 3:
    import pymysql
    from dbutils.pooled_db import PooledDB

    pool = PooledDB(
        pymysql,
        # All are opened now and none is closed later; who finds none free waits instead of failing.
        mincached=DB_POOL,
        maxcached=DB_POOL,
        maxconnections=DB_POOL,
        blocking=True,
        ping=0,
        reset=False,
        # PyMySQL makes an SSL context for every connection, 30 ms each, even where the server has no TLS.
        ssl_disabled=True,
        **database(),
    )


def handle(message: str) -> None:
    if SCENARIO == 1:
        print(f"message = {message!r}")
        return
    time.sleep(random.uniform(*NAP_S))
    if SCENARIO == 3:
        with closing(pool.connection()) as connection, connection.cursor() as cursor:
            cursor.execute(QUESTION)
            cursor.fetchone()


def run(message: str) -> None:
    try:
        handle(message)
    except Exception:
        tally.failed += 1
        raise  # gevent prints it
    else:
        tally.events += 1
    finally:
        tally.running -= 1


def start(messages: str) -> None:
    """A greenlet for each of these messages, which are separated by commas."""
    for message in messages.split(","):
        tally.running += 1
        gevent.spawn(run, message)
