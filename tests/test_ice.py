"""What clients are told of STUN and TURN servers."""

import base64
import hashlib
import hmac

from server.ice import ice_servers, link

TURN = "turn:turn.example:3478?transport=udp"


def test_turn_credentials_are_those_that_coturn_computes() -> None:
    [server] = ice_servers(TURN, "shared", session="abc", now_s=1_000_000.4)
    assert server["username"] == "1003600:abc", "good for an hour"
    signed = hmac.new(b"shared", b"1003600:abc", hashlib.sha1).digest()
    assert server["credential"] == base64.b64encode(signed).decode()


def test_only_turn_servers_come_with_credentials() -> None:
    urls = f"stun:stun.example, {TURN}, turns:turn.example:5349"
    servers = ice_servers(urls, "shared", session="abc", now_s=0.0)
    assert [server["urls"] for server in servers] == urls.split(", ")
    assert ["username" in server for server in servers] == [False, True, True]


def test_no_servers_are_none_and_stray_commas_name_nothing() -> None:
    assert ice_servers("", "shared", session="abc", now_s=0.0) == []
    assert ice_servers(" , ,", "shared", session="abc", now_s=0.0) == []


def test_a_link_holds_nothing_that_obs_would_split_it_by() -> None:
    [server] = ice_servers(TURN, "shared", session="abc", now_s=0.0)
    target, *parameters = link(server).split("; ")
    assert target == f"<{TURN}>"
    assert [parameter.partition("=")[0] for parameter in parameters] == [
        "rel",
        "username",
        "credential",
        "credential-type",
    ]
    assert "," not in link(server), "OBS takes a comma for the end of a link"
    assert link(server).count(";") == len(parameters)
