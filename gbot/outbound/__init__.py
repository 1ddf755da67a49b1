"""The ways out, from a handler's message to the bytes on a connection; top calls down.

::

    console          prints what would be sent, for the platform without an API
    api_sender       cuts what is sent into requests, and merges equal pushes: coalescer
    api              one request until it is settled: host and circuit, lane, retries; content for downloads
    transport        one try over kept connections: connections, http_connection, http_answer, route, lookup
    session          what authors call APIs of their own with
"""
