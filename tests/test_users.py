"""Users as handlers see them: profiles that are asked for once, and who has left."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbot import Conversation, Event
from gbot.directory import ProfileSeen, UserForgotten, UserGone
from gbot.errors import ApiDown, ApiUnavailable, DirectoryUnavailable, LaneBusy, RecipientGone, SendError
from gbot.inboxes.memory_directory import MemoryDirectory
from gbot.user import Profile, User
from gbot.users import PROFILE_TTL_S, Users
from tests.rig import Outbox, event

NAMED = Profile("Anna", "ja", "https://example.com/anna.png", "hello")
YESTERDAY_MS = time.time_ns() // 1_000_000 - round(PROFILE_TTL_S * 1000) - 1000


class Asked(MemoryDirectory):
    """Remembers which users were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.away = False

    def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
        self.asked += ids
        if self.away:
            raise DirectoryUnavailable("the database does not answer", 5.0)
        return super().users(platform, ids)


class World:
    """A platform's users, the directory they are kept in, and the platform that tells of them."""

    def __init__(self, cached_max: int = 100, gone_ttl_s: float = 60.0) -> None:
        self.directory = Asked()
        self.outbox = Outbox()
        self.outbox.profiles["anna"] = NAMED
        self.users = Users("plain", self.directory, self.outbox, cached_max, gone_ttl_s)

    def another_worker(self) -> Users:
        return Users("plain", self.directory, self.outbox)


def happened(kind: str, user: str | None = "anna", at_ms: int | None = None) -> Event:
    return event(kind, user_id=user, timestamp_ms=at_ms)


ELSEWHERE = happened("message.text", user="carl", at_ms=1000)


# ---- profiles


def test_a_profile_is_asked_for_once_and_kept() -> None:
    world = World()
    user = world.users.get("anna")
    assert (user.platform, user.id, user.profile, user.gone) == ("plain", "anna", NAMED, False)
    assert (user.display_name, user.language) == ("Anna", "ja")
    assert world.users.get("anna") == user
    assert world.outbox.asked == ["anna"]
    assert world.directory.users("plain", ["anna"])["anna"].profile == NAMED


def test_another_worker_finds_it_in_the_directory() -> None:
    world = World()
    world.users.get("anna")
    assert world.another_worker().get("anna").profile == NAMED
    assert world.outbox.asked == ["anna"]


def test_a_profile_of_yesterday_is_asked_for_again() -> None:
    world = World()
    world.directory.save([ProfileSeen("plain", "anna", Profile("Anna of old"), YESTERDAY_MS)])
    assert world.users.get("anna").display_name == "Anna"
    assert world.directory.users("plain", ["anna"])["anna"].display_name == "Anna"


@pytest.mark.parametrize("error", [ApiUnavailable("?", 503), LaneBusy("?", 1.0), ApiDown("?", 30.0)], ids=repr)
def test_an_older_profile_is_good_enough_when_the_platform_does_not_answer(error: SendError) -> None:
    world = World()
    world.directory.save([ProfileSeen("plain", "anna", Profile("Anna of old"), YESTERDAY_MS)])
    world.outbox.error = error
    assert world.users.get("anna").display_name == "Anna of old"
    world.outbox.error = None
    assert world.users.get("anna").display_name == "Anna"


@pytest.mark.parametrize("error", [ApiUnavailable("?", 503), ApiDown("?", 30.0)], ids=repr)
def test_without_an_older_one_the_error_is_told_and_the_next_call_asks_again(error: SendError) -> None:
    world = World()
    world.outbox.error = error
    with pytest.raises(type(error)):
        world.users.get("anna")
    world.outbox.error = None
    assert world.users.get("anna").display_name == "Anna"


def test_a_user_whom_the_platform_does_not_tell_is_asked_for_once_and_not_stored() -> None:
    world = World()
    for _ in range(3):
        user = world.users.get("nobody")
        assert (user.profile, user.display_name, user.language) == (None, "", None)
    assert world.outbox.asked == ["nobody"]
    assert world.directory.users("plain", ["nobody"]) == {}


def test_what_the_platform_told_once_stays_when_it_tells_no_more() -> None:
    world = World()
    world.directory.save([ProfileSeen("plain", "left", Profile("Leo"), YESTERDAY_MS)])
    assert world.users.get("left").display_name == "Leo"
    assert world.outbox.asked == ["left"]


def test_a_database_that_is_away_is_told() -> None:
    world = World()
    world.directory.away = True
    with pytest.raises(DirectoryUnavailable):
        world.users.get("anna")
    with pytest.raises(DirectoryUnavailable):
        world.users.there(["anna"])


@pytest.mark.parametrize("away", [True, False], ids=["database", "platform"])
def test_learning_of_somebody_fails_nobody(away: bool) -> None:
    world = World()
    world.directory.away = away
    world.outbox.error = ApiUnavailable("?", 503)
    world.users.learn("anna")
    world.directory.away, world.outbox.error = False, None
    world.users.learn("anna")
    assert world.directory.users("plain", ["anna"])["anna"].profile == NAMED


def test_profiles_are_not_shown_in_logs() -> None:
    assert "Anna" not in repr(NAMED)
    assert "Anna" not in repr(User("plain", "anna", profile=NAMED))


def test_who_comes_back_is_asked_for_again_even_if_the_platform_told_nothing_while_gone() -> None:
    world = World()
    world.outbox.profiles["anna"] = None
    world.users.note(happened("unfollow", at_ms=100), 1)
    assert world.users.get("anna").profile is None
    world.outbox.profiles["anna"] = NAMED
    world.users.note(happened("follow", at_ms=200), 1)
    assert world.users.get("anna").profile == NAMED


# ---- the cache


def test_the_cache_is_bounded_and_the_oldest_go() -> None:
    world = World(cached_max=3)
    world.users.there(["a", "b", "c", "d"])
    world.directory.asked.clear()
    assert world.users.there(["b", "c", "d"]) == ["b", "c", "d"]
    assert world.directory.asked == []
    world.users.there(["a"])
    assert world.directory.asked == ["a"]


def test_who_was_noted_just_now_stays_in_the_cache() -> None:
    world = World(cached_max=3)
    world.users.there(["a", "b", "c"])
    world.users.note(happened("unfollow", "a", at_ms=100), 1)
    world.users.there(["d"])  # for which the one that was cached longest ago goes
    world.directory.asked.clear()
    assert world.users.there(["a", "c", "d"]) == ["c", "d"]
    assert world.directory.asked == []


def test_more_users_than_the_cache_holds_are_all_known() -> None:
    world = World(cached_max=3)
    ids = [f"user {number}" for number in range(100)]
    world.directory.save([UserGone("plain", user_id, True, 1) for user_id in ids[::2]])
    assert world.users.there(ids) == ids[1::2]


def test_one_question_for_all_that_are_missing() -> None:
    world = World()
    world.users.there(["a", "b"])
    world.directory.asked.clear()
    world.users.there(["a", "c", "b", "d"])
    assert world.directory.asked == ["c", "d"]


def test_what_another_worker_has_stored_is_known_when_the_cache_is_stale() -> None:
    fresh, stale = World(), World(gone_ttl_s=0.0)
    for world in (fresh, stale):
        assert world.users.there(["anna"]) == ["anna"]
        world.directory.save([UserGone("plain", "anna", True, 1)])
    assert fresh.users.there(["anna"]) == ["anna"]
    assert stale.users.there(["anna"]) == []


# ---- who is there


def test_follow_and_unfollow_are_noted_for_storing_and_known_at_once() -> None:
    world = World()
    assert world.users.note(happened("unfollow", at_ms=100), 1) == UserGone("plain", "anna", True, 100)
    assert world.users.there(["anna", "ben"]) == ["ben"]
    with pytest.raises(RecipientGone, match="the user has left"):
        world.users.check_there(["anna"], ELSEWHERE)
    with pytest.raises(RecipientGone, match="1 of 2 users has left"):
        world.users.check_there(["anna", "ben"], ELSEWHERE)
    assert world.users.note(happened("follow", at_ms=200), 1) == UserGone("plain", "anna", False, 200)
    world.users.check_there(["anna"], ELSEWHERE)
    assert world.directory.users("plain", ["anna"]) == {}  # it goes with the outcome


def test_who_writes_after_having_left_is_back_though_nobody_told() -> None:
    world = World()
    world.directory.save([UserGone("plain", "anna", True, 100)])
    in_chat = {"user_id": "anna", "conversation": Conversation("user", "anna")}
    for before in (
        event("message.text", timestamp_ms=100, **in_chat),
        event("message.text", **in_chat),
        event("unfollow", timestamp_ms=200, **in_chat),
        event("message.text", timestamp_ms=200, user_id="anna", conversation=Conversation("group", "g")),
    ):
        with pytest.raises(RecipientGone):
            world.users.check_there(["anna"], before)
    world.users.check_there(["anna"], event("message.text", timestamp_ms=200, **in_chat))
    assert world.users.there(["anna"]) == ["anna"]
    assert not world.directory.users("plain", ["anna"])["anna"].gone


def test_without_a_time_of_its_own_an_event_happened_when_it_was_received() -> None:
    assert World().users.note(happened("unfollow"), 7) == UserGone("plain", "anna", True, 7)


@pytest.mark.parametrize("given", [happened("message.text"), happened("join"), happened("follow", user=None)])
def test_other_events_tell_nothing(given: Event) -> None:
    assert World().users.note(given, 1) is None


def test_disorder_does_not_matter() -> None:
    world = World()
    world.users.note(happened("follow", at_ms=200), 1)
    assert world.users.note(happened("unfollow", at_ms=100), 1) == UserGone("plain", "anna", True, 100)
    assert world.users.there(["anna"]) == ["anna"]


def test_disorder_does_not_matter_when_the_later_event_was_another_workers() -> None:
    world = World()
    world.directory.save([UserGone("plain", "anna", False, 200)])
    world.users.note(happened("unfollow", at_ms=100), 1)
    assert world.users.there(["anna"]) == ["anna"]
    world.users.note(happened("unfollow", at_ms=300), 1)
    assert world.users.there(["anna"]) == []


def test_an_event_that_is_not_stored_yet_counts_when_the_cache_is_stale() -> None:
    world = World(gone_ttl_s=0.0)
    world.directory.save([UserGone("plain", "anna", False, 100)])
    assert world.users.there(["anna"]) == ["anna"]
    world.users.note(happened("unfollow", at_ms=200), 1)
    for _ in range(3):
        assert world.users.there(["anna"]) == []


def test_who_leaves_can_still_be_named() -> None:
    world = World()
    recent_ms = time.time_ns() // 1_000_000 - 1000
    world.directory.save([ProfileSeen("plain", "anna", Profile("Anna, stored"), recent_ms)])
    world.users.note(happened("unfollow", at_ms=200), 1)
    user = world.users.get("anna")
    assert (user.gone, user.display_name) == (True, "Anna, stored")
    assert world.outbox.asked == []


def test_a_note_keeps_the_profile_that_is_cached() -> None:
    world = World()
    world.users.get("anna")
    world.users.note(happened("unfollow", at_ms=200), 1)
    assert world.users.get("anna") == User("plain", "anna", True, 200, NAMED, world.users.get("anna").profile_ms)
    assert world.outbox.asked == ["anna"]


def test_who_leaves_while_the_profile_is_fetched_is_gone() -> None:
    class Leaving(Outbox):
        def profile(self, user_id: str) -> Profile | None:
            users.note(happened("unfollow", user_id, at_ms=500), 1)
            return super().profile(user_id)

    outbox = Leaving()
    outbox.profiles["anna"] = NAMED
    users = Users("plain", MemoryDirectory(), outbox)
    user = users.get("anna")
    assert (user.gone, user.profile) == (True, NAMED)
    assert users.there(["anna"]) == []


def test_who_leaves_while_the_directory_is_read_is_gone() -> None:
    class Leaving(MemoryDirectory):
        def users(self, platform: str, ids: Sequence[str]) -> dict[str, User]:
            found = super().users(platform, ids)
            users.note(happened("unfollow", at_ms=500), 1)
            return found

    users = Users("plain", Leaving(), Outbox())
    assert users.there(["anna"]) == []


def test_who_is_forgotten_is_read_again() -> None:
    world = World()
    world.users.note(happened("unfollow", at_ms=100), 1)
    world.users.forget(["anna", "somebody else"])
    world.directory.save([UserForgotten("plain", "anna")])
    assert world.users.there(["anna"]) == ["anna"]


@given(st.permutations([("follow", 100), ("unfollow", 200), ("follow", 300), ("unfollow", 400)]), st.booleans())
def test_in_any_order_the_latest_counts_here_and_where_it_is_stored(order: list[tuple[str, int]], stale: bool) -> None:
    world = World(gone_ttl_s=0.0 if stale else 60.0)
    for kind, at_ms in order:
        change = world.users.note(happened(kind, at_ms=at_ms), 1)
        latest = max(at for _, at in order[: order.index((kind, at_ms)) + 1])
        there = ("follow", latest) in order
        assert world.users.there(["anna"]) == (["anna"] if there else [])
        assert change is not None
        world.directory.save([change])
        assert world.another_worker().there(["anna"]) == (["anna"] if there else [])
