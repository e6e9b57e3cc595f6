"""The dashboard against other users of the machine, pages in the user's browser, and names that lead to its port."""

import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.dashboard.server import Shown, serve_dashboard
from pipeline.dashboard.studies import Pair, Side, Studies
from pipeline.store import Store
from pipeline.tracking import RunTracker
from pipeline.tracking_address import default_tracking_uri
from tests.factories import make_record
from tests.ports import free_port

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Served:
    """A dashboard: its address with the token, MLflow's below it, the one without a token, and its port."""

    url: str
    mlflow: str
    base: str
    port: int
    process: int
    rater: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("store")
    uri = default_tracking_uri(folder)
    tracker = RunTracker.open(uri, "shapes", "a-run", None)
    tracker.finish("done")
    store = Store(str(folder))
    store.open_for_writing()
    store.write_run(make_record("a-1", mlflow=tracker.runs))
    sides = [Side(run=run, set="prior", index=0) for run in ("a-1", "b-1")]
    study = Studies(store).create("<b>which?</b>", [Pair(prompt="<script>🐕", seed=0, first=sides[0], second=sides[1])])
    rater = f"{study.study}.{Studies(store).invite(study, 'Ada')[1]}"
    port = free_port()
    with serve_dashboard(Shown(str(folder), uri, "1"), "127.0.0.1", port) as (url, process):
        yield Served(
            url, f"{url}/mlflow", f"http://127.0.0.1:{port}", port, process.pid, f"http://127.0.0.1:{port}/{rater}"
        )


def ask(
    url: str, *, method: str = "GET", body: object = None, headers: Mapping[str, str] = JSON
) -> tuple[int, str, Mapping[str, str]]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=50) as response:
            return response.status, response.read().decode(errors="replace"), dict(response.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), dict(error.headers)


def raw(port: int, head: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode("latin-1"))
        return connection.recv(200).decode("latin-1").partition("\r\n")[0]


def test_the_address_that_was_printed_shows_the_runs(served: Served) -> None:
    status, page, headers = ask(f"{served.url}/")
    assert (status, "<title>Corgi dashboard</title>" in page) == (200, True)
    assert headers["referrer-policy"] == "no-referrer"
    assert ask(served.url)[0] == 200  # without the slash at its end
    status, found, _ = ask(f"{served.url}/api/runs")
    assert (status, [run["run"] for run in json.loads(found)["runs"]]) == (200, ["a-1"])


def test_mlflows_page_is_below_it(served: Served) -> None:
    status, page, headers = ask(f"{served.mlflow}/")
    assert (status, "<title>MLflow</title>" in page) == (200, True)
    assert headers["referrer-policy"] == "no-referrer"
    assert ask(served.mlflow)[0] == 200  # as a tracking address is written
    status, found, _ = ask(
        f"{served.mlflow}/ajax-api/2.0/mlflow/experiments/search", method="POST", body={"max_results": 9}
    )
    assert (status, "shapes" in found) == (200, True)
    script = page.partition('defer="defer" src="')[2].partition('"')[0]
    assert ask(f"{served.mlflow}/{script}")[0] == 200


def test_the_page_runs_its_own_scripts_alone(served: Served) -> None:
    _, page, headers = ask(f"{served.url}/")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
    assert headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=|https?://", page)
    files = re.findall(r'(?:src|href)="(page/[^"]+)"', page)
    assert len(files) == 4
    assert {ask(f"{served.url}/{file}")[0] for file in files} == {200}


def test_a_raters_link_leads_to_the_raters_page_alone(served: Served) -> None:
    status, page, headers = ask(f"{served.rater}/")
    assert (status, "Which image is better?" in page) == (200, True)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert ask(f"{served.rater}/api/work")[0] == 200
    assert "a-1" not in ask(f"{served.rater}/api/pairs/0")[1]
    for path in ("api/runs", "api/studies", "mlflow/", "mlflow/version", "api/about", "../", "api/pairs/1"):
        assert ask(f"{served.rater}/{path}")[0] in {403, 404}
    assert ask(f"{served.rater[:-1]}/")[0] == 403
    assert ask(f"{served.base}/{served.rater.rpartition('/')[2].partition('.')[0]}./")[0] == 403


def test_a_vote_is_of_the_form_that_is_asked_for(served: Served) -> None:
    url, whole = f"{served.rater}/api/pairs/0", {"alignment": "left", "fidelity": "tie"}
    bodies: list[object] = [{}, whole | {"fidelity": "first"}, whole | {"run": "a-1"}, [], "left"]
    for body in bodies:
        assert ask(url, method="POST", body=body)[0] == 422
    theirs = JSON | {"Origin": "http://evil.com"}
    assert ask(url, method="POST", body=whole, headers=theirs)[0] == 403
    assert json.loads(ask(f"{served.rater}/api/work")[1])["left"] == [0]
    assert ask(url, method="POST", body=whole)[0] == 200
    assert json.loads(ask(f"{served.rater}/api/work")[1])["left"] == []
    assert json.loads(ask(url)[1])["vote"] == whole


@pytest.mark.parametrize("megabytes", [21, 30, 50])  # what is sent while it is refused decides what clients read
def test_a_body_beyond_bounds_is_refused(served: Served, megabytes: int) -> None:
    body = {"title": "x" * (megabytes << 20), "runs": []}
    assert ask(f"{served.url}/api/studies", method="POST", body=body)[0] == 413


@pytest.mark.parametrize("run", ["..", "%2e%2e", "..%2f..", "a-1%2f..%2fa-1", "-", ".", "a" * 300, "b-1", "a-1\u202e"])
def test_a_run_that_is_none_is_not_looked_for_elsewhere(served: Served, run: str) -> None:
    for path in (
        f"runs/{run}", f"runs/{run}/curves", f"runs/{run}/generated/prior/0", f"runs/{run}/findings/evaluate",
        f"runs/{run}/samples/00000/x", f"comparison?run={run}",
    ):  # fmt: skip
        assert ask(f"{served.url}/api/{urllib.parse.quote(path, safe='/%?=')}")[0] in {404, 405}
    status, words, _ = ask(f"{served.url}/api/generated?run={urllib.parse.quote(run, safe='%')}")
    found = json.loads(words)
    assert (status, found["total"], found["rows"]) == (200, 0, [])
    assert "is not in this store" in found["faults"][0]
    assert ask(f"{served.url}/page/..%2fapp.py")[0] == 404
    assert ask(f"{served.url}/page/%2e%2e/app.py")[0] == 404


def test_what_is_malformed_is_refused_in_a_sentence(served: Served) -> None:
    for path in ("differences", "differences?" + "&".join(["run=a-1"] * 50), "runs/a-1/images/train_prior/x?name=y"):
        status, words, _ = ask(f"{served.url}/api/{path}")
        assert (status, set(json.loads(words))) == (422, {"detail"})


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/x/",
        "/api/runs",
        "/page/main.js",
        "/mlflow/",
        "/api/2.0/mlflow/experiments/search",
        "/get-artifact",
        "/version",
        "//",
        "/%2e%2e/",
        "/\xe9/",
    ],
)
def test_who_has_no_token_can_neither_read_nor_write(served: Served, path: str) -> None:
    path = urllib.parse.quote(path, safe="/%")
    assert ask(f"{served.base}{path}")[0] == 403
    assert ask(f"{served.base}{path}", method="POST", body={"name": "mine"})[0] == 403
    assert ask(f"{served.url[:-1]}{path}/", method="POST", body={})[0] == 403


def test_the_token_is_seen_by_nobody_else(served: Served) -> None:
    """Arguments of processes can be listed by every user; their environment cannot."""
    token = served.url.rpartition("/")[2]
    assert len(token) >= 32
    listed = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    assert "pipeline.dashboard.app" in listed
    assert token not in listed
    assert os.stat(f"/proc/{served.process}/environ").st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "host",
    ["10.evil.com", "10.evil.com:{port}", "192.168.evil.com:{port}", "172.16.x.evil:{port}",
     "localhost.evil.com:{port}",
     "localhost:{port}.evil.com", "localhost", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.:{port}", "localhost.:{port}",
     "LOCALHOST:{port}", "[::1]:{port}", "[::ffff:127.0.0.1]:{port}", "127.1:{port}", "2130706433:{port}",
     "user@127.0.0.1:{port}", "127.0.0.1:{port}@evil", "0.0.0.0:{port}", "fc00:{port}", "evil.com"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/health"])
def test_another_host_is_refused(served: Served, host: str, path: str) -> None:
    token = f"/{served.url.rpartition('/')[2]}" if path == "/" else ""
    named = host.format(port=served.port)
    assert raw(served.port, f"GET {token}{path} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n").endswith(
        " 403 Forbidden"
    )


@pytest.mark.parametrize("hosts", ["", "Host: \r\n", "Host: 127.0.0.1:{port}\r\nHost: evil.com\r\n"])
def test_no_host_and_two_hosts_are_refused(served: Served, hosts: str) -> None:
    head = f"GET /health HTTP/1.1\r\n{hosts.format(port=served.port)}Connection: close\r\n\r\n"
    assert raw(served.port, head).split(" ")[1] in {"400", "403"}


def test_both_names_of_this_machine_are_served(served: Served) -> None:
    for host in (f"localhost:{served.port}", f"127.0.0.1:{served.port}"):
        head = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert raw(served.port, head) == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://localhost:9", "https://127.0.0.1:{port}"])
def test_a_page_of_another_site_is_refused(served: Served, origin: str) -> None:
    headers = JSON | {"Origin": origin.format(port=served.port)}
    url = f"{served.mlflow}/ajax-api/2.0/mlflow/experiments/create"
    assert ask(url, method="POST", body={"name": "theirs"}, headers=headers)[0] == 403
    own = JSON | {"Origin": served.base}
    assert ask(f"{served.mlflow}/ajax-api/2.0/mlflow/experiments/search?max_results=1", headers=own)[0] == 200
    assert ask(f"{served.url}/api/runs", headers=headers)[0] == 403
    assert ask(f"{served.url}/api/runs", headers=own)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/x"),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts"),
        ("GET", "/ajax-api/2.0/mlflow-artifacts/artifacts/x"),
        ("POST", "/ajax-api/2.0/mlflow/upload-artifact"),
        ("POST", "/api/2.0/mlflow/registered-models/create"),
        ("DELETE", "/api/2.0/mlflow/registered-models/delete"),
        ("POST", "/api/2.0/mlflow/model-versions/create"),
        ("PATCH", "/api/2.0/mlflow/model-versions/update"),
        ("POST", "/api/2.0/mlflow/logged-models"),
        ("GET", "/api/2.0/mlflow/webhooks"),
        ("POST", "/api/2.0/mlflow/webhooks"),
        ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"),
        ("POST", "/gateway/x/mlflow/invocations"),
        ("GET", "/ajax-api/3.0/mlflow/gateway/secrets/list"),
        ("POST", "/ajax-api/3.0/mlflow/gateway/secrets/create"),
        ("POST", "/ajax-api/3.0/mlflow/scorer/invoke"),
        ("POST", "/ajax-api/3.0/mlflow/assistant/message"),
        ("GET", "/ajax-api/3.0/mlflow/mcp-servers"),
        ("POST", "/ajax-api/2.0/mlflow/runs/create-promptlab-run"),
        ("POST", "/api/3.0/mlflow/datasets/create"),
        ("POST", "/ajax-api/3.0/jobs/"),
        ("POST", "/ajax-api/3.0/mlflow/demo/generate"),
        ("POST", "/v1/traces"),
        ("GET", "/ajax-api/3.0/mlflow/workspaces"),
        ("GET", "/metrics"),
    ],
)
def test_parts_of_mlflow_that_runs_do_not_need_are_off(served: Served, method: str, path: str) -> None:
    status, words, _ = ask(f"{served.mlflow}{path}", method=method, body=None if method == "GET" else {})
    assert (status, "is off" in words) == (404, True)


def test_a_path_that_leaves_an_open_one_is_not_taken_for_it(served: Served) -> None:
    token = served.url.rpartition("/")[2]
    for path in ("mlflow/static-files/../api/2.0/mlflow/webhooks", "mlflow/static-files/..%2f..%2f..%2fetc%2fpasswd",
                 "mlflow/get-artifact?path=../../../../etc/passwd&run_uuid=x"):  # fmt: skip
        head = f"GET /{token}/{path} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n\r\n"
        assert raw(served.port, head).split(" ")[1] in {"400", "403", "404", "500"}


def test_the_server_listens_on_loopback_only(served: Served) -> None:
    lines = [line.split() for file in ("tcp", "tcp6") for line in Path(f"/proc/net/{file}").read_text().splitlines()]
    listening = [line[1] for line in lines if line[1].endswith(f":{served.port:04X}") and line[3] == "0A"]
    assert listening == [f"0100007F:{served.port:04X}"]
