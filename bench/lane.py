"""How close to its limit does a lane let requests through, and what does a passage cost?

    python bench/lane.py                               2,000/s, 5,000 greenlets, 10 s
    python bench/lane.py --rate 200 --seconds 30 --busy-ms 5

Every greenlet wants through again and again, on the real clock; each request begins when ``enter`` returns, and that
moment is written down. No second, wherever it starts, may hold more beginnings than the limit. --busy-ms has something
else use the processor for so long at a stretch, half of the time: a lane in a worker is not alone.

The cost of a passage that waits for the rate is the whole process's processor time in that run, timers and switches
included. Those that need not wait, and those that only wait for another to leave, have runs of their own.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gevent
from measuring import circumstances, figure, say, table, write_json
from wrk import positive

from gbot.limiter import Limit, limit_text
from gbot.outbound.lane import Lane

WINDOW_S = 1.0
WARM_UP_S = 1.0  # not in the rate: a lane that has been idle lets a few through at once
PASSAGES = 200_000
ROUNDS = 3
HANDING_OVER = 1_000  # greenlets that wait for each other


def beginnings(rate: int, greenlets: int, seconds: float, busy_s: float) -> tuple[list[float], float]:
    """When each request began, and the processor time of the window in seconds."""
    lane = Lane("bench", Limit(count=rate), waiting_max=greenlets)
    begun: list[float] = []
    passing = [gevent.spawn(pass_again_and_again, lane, flow, begun) for flow in range(greenlets)]
    passing.append(gevent.spawn(be_busy, busy_s))
    gevent.sleep(WARM_UP_S)
    cpu_s = time.process_time()
    gevent.sleep(seconds)
    cpu_s = time.process_time() - cpu_s
    gevent.killall(passing)
    return begun, cpu_s


def pass_again_and_again(lane: Lane, flow: int, begun: list[float]) -> None:
    while True:
        lane.enter(flow, 600.0)
        begun.append(time.monotonic())
        lane.leave()


def be_busy(busy_s: float) -> None:
    while busy_s:
        end = time.monotonic() + busy_s
        while time.monotonic() < end:
            pass
        gevent.sleep(busy_s)


def most_in_any_window(times: Sequence[float], window_s: float = WINDOW_S) -> int:
    """The most that began in any half-open window of this length."""
    most = first = 0
    for last, time_s in enumerate(times):
        while times[first] <= time_s - window_s:
            first += 1
        most = max(most, last - first + 1)
    return most


def cpu_us(run: Callable[[], None], passages: int) -> float:
    """The least of some rounds: what else the machine does can only add to it."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        least = min(least, time.process_time() - start)
    return least / passages * 1e6


def without_waiting(limit: Limit) -> float:
    lane = Lane("bench", limit, waiting_max=1)

    def run() -> None:
        for _ in range(PASSAGES):
            lane.enter("flow", 10.0)
            lane.leave()

    return cpu_us(run, PASSAGES)


def handing_over() -> float:
    """One at a time: each greenlet waits until another leaves."""
    lane = Lane("bench", Limit(in_flight=1), waiting_max=HANDING_OVER)
    each = PASSAGES // HANDING_OVER

    def some(flow: int) -> None:
        for _ in range(each):
            lane.enter(flow, 600.0)
            gevent.sleep(0)
            lane.leave()

    def empty(flow: int) -> None:
        for _ in range(each):
            gevent.sleep(0)

    def all_of(body: Callable[[int], None]) -> Callable[[], None]:
        return lambda: gevent.joinall([gevent.spawn(body, flow) for flow in range(HANDING_OVER)], raise_error=True)

    passages = each * HANDING_OVER
    return cpu_us(all_of(some), passages) - cpu_us(all_of(empty), passages)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    limit = Limit(count=arguments.rate)
    say(f"{limit_text(limit)}, {arguments.greenlets} greenlets, {arguments.seconds} s")
    times, cpu_s = beginnings(arguments.rate, arguments.greenlets, arguments.seconds, arguments.busy_ms / 1000)
    start = times[0] + WARM_UP_S
    counted = sum(start <= time_s < start + arguments.seconds for time_s in times)
    rate = counted / arguments.seconds
    say("passages without waiting, and from one to the other")
    return {
        "rate": rate,
        "below_percent": (1 - rate / arguments.rate) * 100,
        "most_in_1_s": most_in_any_window(times),
        "most_in_10_ms": most_in_any_window(times, 0.01),
        "cpu_us_rate": cpu_s / counted * 1e6 if not arguments.busy_ms else None,
        "cpu_us_handed_over": handing_over(),
        "cpu_us_not_waiting": without_waiting(Limit(count=1_000_000)),
        "cpu_us_unlimited": without_waiting(Limit()),
    }


def report(found: dict[str, object]) -> str:
    names = {
        "rate": "requests begun per second",
        "below_percent": "below the limit, %",
        "most_in_1_s": "most in any 1 s",
        "most_in_10_ms": "most in any 10 ms",
        "cpu_us_rate": "CPU us per passage that waits for the rate",
        "cpu_us_handed_over": "CPU us per passage that waits for another to leave",
        "cpu_us_not_waiting": "CPU us per passage that need not wait",
        "cpu_us_unlimited": "CPU us per passage without a rate",
    }
    digits = {"most_in_1_s": 0, "most_in_10_ms": 0}
    rows = [[text, figure(found[name], digits.get(name, 2))] for name, text in names.items()]  # type: ignore[arg-type]
    return table(("what", "figure"), rows)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--rate", type=positive, default=2_000, help="the limit, in requests per second (default 2000)")
    parser.add_argument("--greenlets", type=positive, default=5_000, help="that want through (default 5000)")
    parser.add_argument("--seconds", type=positive, default=10, help="measured window (default 10)")
    parser.add_argument("--busy-ms", type=float, default=0.0, help="what else is done at a stretch (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found into this file")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    found = measure(arguments)
    print(report(found))
    if arguments.json:
        write_json(arguments.json, {**circumstances(), **found})
        say(f"written: {arguments.json}")
    if found["most_in_1_s"] > arguments.rate:  # type: ignore[operator]
        raise SystemExit("more than the limit began in one second")


if __name__ == "__main__":
    main()
