"""Tokens and ids."""

import pytest

from server.auth import Grant, TokenError, new_id, sign, verify

SECRET = b"a secret of thirty-two characters"
GRANT = Grant(session="s", scope="watch", expires_s=200.0)


def test_a_token_says_what_it_allows_until_it_expires() -> None:
    token = sign(GRANT, SECRET)
    assert verify(token, SECRET, now_s=199.9) == GRANT
    with pytest.raises(TokenError, match="expired"):
        verify(token, SECRET, now_s=200.0)


@pytest.mark.parametrize(
    "token", ["", ".", "undefined", "a.b", "\u00e9.\u00e9", "x" * 600, "\ud800"]
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(TokenError):
        verify(token, SECRET, now_s=0.0)


def test_a_changed_token_and_another_servers_are_refused() -> None:
    token = sign(GRANT, SECRET)
    control = sign(Grant(session="s", scope="control", expires_s=200.0), SECRET)
    swapped = f"{control.partition('.')[0]}.{token.partition('.')[2]}"
    for spoilt in (token + "A", token[:-1], token.replace(".", ""), swapped):
        with pytest.raises(TokenError):
            verify(spoilt, SECRET, now_s=0.0)
    with pytest.raises(TokenError, match="not issued here"):
        verify(token, SECRET + b"!", now_s=0.0)


def test_ids_cannot_be_guessed() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len(new_id()) >= 22  # 128 bits
