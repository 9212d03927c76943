"""The service's side of the prefix cache: its cap within the budget, and its salts."""

from service.engines.torch.prefix_cache import PrefixCacheControl

MIB = 2**20


def control(max_bytes=64 * MIB):
    sent = []
    return PrefixCacheControl(max_bytes, lambda message: sent.append(message.max_bytes)), sent


def test_the_cap_shrinks_with_what_is_left_of_the_budget():
    """Models and running requests come first: the host is told at once."""
    cache, sent = control()
    for free in (500 * MIB, 100 * MIB, 40 * MIB, 39 * MIB, -5):
        cache.spare(free)

    assert sent == [40 * MIB, 39 * MIB, 0]


def test_the_cap_grows_again_in_steps():
    """Few messages while memory comes back byte by byte, and the last one is the whole cap."""
    cache, sent = control()
    cache.spare(32 * MIB)
    sent.clear()
    for free in range(32 * MIB, 80 * MIB, MIB // 4):
        cache.spare(free)

    assert sent[-1] == 64 * MIB
    assert sent == sorted(sent)
    assert len(sent) < 20


def test_a_new_process_is_told_the_cap_of_the_moment():
    """A host that was restarted starts with nothing, and with what the budget leaves now."""
    cache, sent = control()
    cache.spare(10 * MIB)
    cache.tell()

    assert sent == [10 * MIB] * 2
    assert cache.use is None


def test_salts_keep_principals_and_clients_apart():
    """Who asks and what the client gave are both in it, and are not joined."""
    cache, _ = control()
    salts = {
        cache.salt(principal, given)
        for principal, given in [
            ("", None), ("", "a"), ("a", None), ("a", "b"), ("ab", None), ("ab", ""), ("", "ab"),
        ]
    }  # fmt: skip

    assert len(salts) == 7
    assert cache.salt("a", "b") == cache.salt("a", "b")


def test_no_client_can_know_another_servers_salt():
    """The secret is of this process: equal salts of two servers differ."""
    assert control()[0].salt("", "a") != control()[0].salt("", "a")
