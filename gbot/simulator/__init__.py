"""A simulated platform: it sends signed deliveries to a bot that runs elsewhere, and serves the API the bot answers to.

The rooms, pure ones first::

    dice        decisions by seed              options     how the command's options are read
    codes       numbers hidden in ids, tokens  people      the users
    scene       what is common to a run        settings    what a run is to be
    traffic     what is sent, and when         faults      what goes wrong with which request
    window      the platform's rate limits     histogram   how long things took
    ledger      what became of each event      calls       what the API was asked
    verdict     was it good?                   screen      all that as text
    platform    contract of a simulated platform; line… and messenger… are two

    server      the API on a socket            postman     deliveries to the bot's socket
    play        one run                        stage       sets it up

**Deterministic by seed.** What is sent is a function of the seed and the event's number; what goes wrong, of the seed
and the request's number. The ids and tokens differ from run to run, or a bot that remembers what it has seen would drop
everything of a second run.

**Which event an answer belongs to.** A reply: the one whose token it carries. Any other message: the one whose id, or
whose text's tag (``#17-3f9a2c``), stands in it; every text that the simulator sends ends with such a tag. A message
that quotes nothing is no answer, and is counted. A bot under test therefore answers each event with one request.

**An exception** is an event that was not answered exactly once. It is excused when the simulator itself made an answer
impossible: a reply may not be repeated when nobody knows whether it arrived, so one that was answered with 5xx, or cut
off, without having been accepted, is lost for good; so is a push over the quota; and a picture that was taken back may
be left without an answer.

**Memory** is bounded: up to a million events are kept one by one, older ones in totals.
"""
