"""The page's server over real sockets: what it lets in, what it records, what survives."""

import http.client
import json
import re
import resource
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wafer.datasets.ledger import whole_revisions
from wafer.datasets.workspace import Workspace, open_workspace
from wafer.labelling.ledger import Ledger
from wafer.labelling.queue import newest_queue, open_items
from wafer.labelling.review.desk import Desk
from wafer.labelling.review.server import listening, review_token
from wafer.labelling.verifying import verify_ledger

pytestmark = pytest.mark.slow

ADA = {"session": "ada-00001", "who": "Ada"}
GRACE = {"session": "grace-001", "who": "Grace"}


def taken(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the boxes of an image as the page would record them untouched."""
    keys = ("box", "class_name", "entry", "candidate")
    return [{key: box[key] for key in keys} for box in task["boxes"] if box["taken"]]


def following(page: Any, who: dict[str, str], pile: str = "queue", **more: Any) -> Any:
    status, answer = page.ask("/api/next", {**who, "pile": pile, **more})
    assert status == 200, answer
    return answer["task"]


def decide(page: Any, who: dict[str, str], task: Any, boxes: Any = None, **more: Any) -> Any:
    body = {**who, "pile": task["pile"], "image": task["image"], "revision": task["revision"]}
    return page.ask(
        "/api/decide", {**body, "boxes": taken(task) if boxes is None else boxes, **more}
    )


def open_count(page: Any, pile: str = "queue") -> int:
    piles = page.ask("/api/start")[1]["piles"]
    return int(next(each["open"] for each in piles if each["pile"] == pile))


# --- who gets in ---


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 403),
        ("/?token=", {}, 403),
        ("/?token=wrong", {}, 403),
        ("/?token=%C3%A4", {}, 403),
        ("/api/start", {}, 403),
        ("/api/start?token={token}", {}, 403),
        ("/api/start", {"x-wafer-token": "{token}"}, 200),
        ("/api/start", {"x-wafer-token": "{token}x"}, 403),
        ("/?token={token}", {}, 200),
        ("/?token={token}", {"host": "127.0.0.1:99"}, 200),
        ("/?token={token}", {"host": "localhost"}, 200),
        ("/?token={token}", {"host": "evil.example"}, 421),
        ("/?token={token}", {"host": "127.0.0.1.evil.example:80"}, 421),
        ("/?token={token}", {"host": "evil.example:127.0.0.1"}, 421),
        ("/static/review.js", {"host": "evil.example"}, 421),
        ("/static/review.js", {}, 200),
        ("/static/../server.py", {}, 404),
        ("/static/%2e%2e/server.py", {}, 404),
        ("/static/%2e%2e%2f%2e%2e%2fledger.py", {}, 404),
        ("/docs", {"x-wafer-token": "{token}"}, 404),
        ("/openapi.json", {"x-wafer-token": "{token}"}, 404),
    ],
)
def test_only_who_has_the_token_and_is_on_this_machine_gets_in(
    page: Any, path: str, headers: dict[str, str], status: int
) -> None:
    given = {"x-wafer-token": ""} | {k: v.format(token=page.token) for k, v in headers.items()}
    assert page.ask(path.format(token=page.token), headers=given)[0] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"origin": "https://127.0.0.1:{port}"}, 403),
        ({"origin": "http://localhost:{port}"}, 403),
        ({"host": "localhost:{port}", "origin": "http://localhost:{port}"}, 200),
        ({"x-wafer-token": "wrong"}, 403),
        ({"content-type": "text/plain"}, 422),
    ],
)
def test_only_the_page_itself_may_write(page: Any, headers: dict[str, str], status: int) -> None:
    given = {name: value.format(port=page.port) for name, value in headers.items()}
    body = {**ADA, "image": "q0.png"}
    assert page.ask("/api/keep", body, headers=given)[0] == status


def test_every_answer_forbids_other_scripts_and_sites(page: Any) -> None:
    import http.client

    for path in ("/", f"/?token={page.token}", "/static/review.js", "/api/start"):
        connection = http.client.HTTPConnection("127.0.0.1", page.port)
        connection.request("GET", path)
        response = connection.getresponse()
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "unsafe" not in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in response.headers
        connection.close()


def test_the_page_holds_no_script_or_style_of_its_own_and_nothing_from_elsewhere() -> None:
    folder = Path(__file__).parents[3] / "labelling" / "review" / "static"
    page = (folder / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=", page) == []
    for path in folder.iterdir():
        links = set(re.findall(r"https?://[^\"'\s)]+", path.read_text()))
        assert links <= {"http://www.w3.org/2000/svg"}, path


def test_it_listens_on_this_machine_alone(page: Any) -> None:
    sockets = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    port = f"{page.port:04X}"
    found = re.findall(rf"\s([0-9A-F]+):{port}\s\S+\s0A\s", sockets)
    assert found == ["0100007F"]


@pytest.mark.parametrize(
    "image",
    ["../w/wafer.toml", "/etc/passwd", "..%2f..%2fetc%2fpasswd", "absent.png", "", "q0.png%00"],
)
def test_only_images_of_the_workspace_are_shown(page: Any, image: str) -> None:
    status, answer = page.ask(f"/api/image?image={image}")
    assert status == 422
    assert answer["error"].startswith("no image")


def test_an_image_comes_as_it_is(page: Any, workspace: Workspace) -> None:
    path = "/api/image?image=lot%201/q%201%26%3D.png"
    status, content = page.ask(path)
    assert status == 200
    assert content == workspace.image_path("lot 1/q 1&=.png").read_bytes()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"pile": "other"}, "pile"),
        ({"session": "x"}, "session"),
        ({"who": ""}, "who"),
        ({"who": "a\nb"}, "who"),
        ({"revision": "0"}, "revision"),
        ({"boxes": [{"box": [0, 0, 1], "class_name": "bright"}]}, "boxes"),
        ({"boxes": [{"box": [0, 0, "NaN", 1], "class_name": "bright"}]}, "boxes"),
        ({"boxes": [{"box": [0, 0, 9, 9], "class_name": "bright", "more": 1}]}, "boxes"),
        ({"more": 1}, "more"),
    ],
)
def test_what_is_malformed_is_refused(
    page: Any, workspace: Workspace, change: dict[str, Any], part: str
) -> None:
    before = (workspace.root / "ledger.jsonl").read_bytes()
    body = {**ADA, "pile": "queue", "image": "q0.png", "revision": 0, "boxes": [], **change}
    status, answer = page.ask("/api/decide", body)
    assert status == 422
    assert part in json.dumps(answer)
    assert (workspace.root / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([{"box": [0, 0, 9, 9], "class_name": "other"}], "no box can be of class 'other'"),
        ([{"box": [0, 0, 9, 9], "class_name": "ok"}], "no box can be of class 'ok'"),
        ([{"box": [0, 0, 681, 9], "class_name": "bright"}], "outside its image of 680 x 680"),
        ([{"box": [5, 0, 5, 9], "class_name": "bright"}], "a box of 0 x 9 pixels"),
        ([{"box": [0, 0, 9, 9], "class_name": "bright", "entry": 1}], "no box of entry 1"),
        ([{"box": [0, 0, 9, 9], "class_name": "shift"}] * 2, "only once"),
    ],
)
def test_boxes_that_cannot_be_are_refused(
    page: Any, workspace: Workspace, boxes: Any, message: str
) -> None:
    before = (workspace.root / "ledger.jsonl").read_bytes()
    status, answer = decide(page, ADA, following(page, ADA), boxes)
    assert (status, message in answer["error"]) == (422, True), answer
    assert (workspace.root / "ledger.jsonl").read_bytes() == before


def test_two_boxes_cannot_come_from_one(page: Any, workspace: Workspace) -> None:
    task = following(page, ADA)
    status, answer = decide(page, ADA, task, taken(task) * 2)
    assert (status, answer["error"]) == (422, "two boxes cannot come from one")
    assert Ledger(workspace).history("q0.png") == ()


def test_a_long_body_is_refused(page: Any) -> None:
    assert page.ask("/api/keep", {**ADA, "image": "x" * (1 << 20)})[0] == 413


# --- what is recorded ---


def test_boxes_accepted_as_they_are_are_confirmed_to_the_last_digit(
    page: Any, workspace: Workspace
) -> None:
    task = following(page, ADA)
    assert (task["image"], task["revision"], task["size"]) == ("q0.png", 0, [680, 680])
    assert [box["taken"] for box in task["boxes"]] == [True, False]
    assert len(task["neighbours"]) == 3
    assert decide(page, ADA, task) == (200, {"revision": 1})
    (entry,) = Ledger(workspace).states()["q0.png"].entries
    assert entry.box == (100.25, 120.5, 220.125, 260.75)
    assert (entry.decision, entry.source, entry.who) == ("confirmed", "model+confirmed", "Ada")
    assert (entry.probability, entry.model) == (0.62, "ab" * 32)
    assert re.fullmatch(r"review \d+\.\d s", entry.note or "")
    assert open_count(page) == 4


def test_moved_renamed_and_new_boxes_keep_where_they_come_from(
    page: Any, workspace: Workspace
) -> None:
    task = following(page, ADA)
    boxes = [
        {"box": [1, 2, 30, 40], "class_name": "dark", "candidate": task["boxes"][0]["candidate"]},
        {"box": [5, 6, 70, 80], "class_name": "bright"},
        {"box": [7, 7, 8, 8], "class_name": "shift"},
    ]
    assert decide(page, ADA, task, boxes)[0] == 200
    edited, drawn, frame = Ledger(workspace).states()["q0.png"].entries
    assert (edited.box, edited.class_name) == ((1, 2, 30, 40), "dark")
    assert (edited.decision, edited.source, edited.raw) == ("edited", "model+edited", 0.7)
    assert (drawn.decision, drawn.source, drawn.box) == ("drawn", "human", (5, 6, 70, 80))
    assert frame.box == (0, 0, 680, 680)


def test_a_suspicious_box_of_a_person_can_be_rejected(page: Any, workspace: Workspace) -> None:
    task = page.ask("/api/open", {**ADA, "pile": "queue", "image": "d1.png"})[1]["task"]
    (box,) = task["boxes"]
    assert (box["suspicious"], box["source"], box["taken"]) == (True, "human", True)
    new = {"box": [300, 300, 400, 400], "class_name": "bright"}
    assert decide(page, GRACE, task, [new])[0] == 200
    state = Ledger(workspace).states()["d1.png"]
    assert [(e.decision, e.supersedes) for e in state.entries] == [
        ("drawn", None),
        ("rejected", box["entry"]),
    ]


def test_nothing_to_see_writes_an_empty_label_file(page: Any, workspace: Workspace) -> None:
    assert decide(page, ADA, following(page, ADA), [])[0] == 200
    assert workspace.label_path("q0.png").read_text() == ""
    assert Ledger(workspace).states()["q0.png"].annotations == ()


def test_what_is_undone_comes_back_into_the_queue(page: Any, workspace: Workspace) -> None:
    task = following(page, ADA)
    decide(page, ADA, task)
    undo = {**ADA, "pile": "queue", "image": "q0.png"}
    assert page.ask("/api/undo", {**undo, "revision": 0})[0] == 409
    assert page.ask("/api/undo", {**undo, "revision": 1}) == (200, {"revision": 2})
    assert not workspace.label_path("q0.png").exists()
    assert open_count(page) == 5
    again = following(page, ADA)
    assert (again["image"], again["revision"], again["boxes"]) == ("q0.png", 2, task["boxes"])
    assert decide(page, ADA, again, [])[0] == 200
    assert page.ask("/api/undo", {**undo, "revision": 3})[0] == 200
    assert open_count(page) == 5
    assert page.ask("/api/undo", {**undo, "revision": 4})[0] == 200
    assert open_count(page) == 4  # undoing an undo
    assert Ledger(workspace).states()["q0.png"].annotations == ()


def test_the_queue_goes_class_by_class_and_what_is_passed_over_comes_again(page: Any) -> None:
    first = following(page, ADA)
    seen = [first["image"]]
    for _ in range(4):
        seen.append(following(page, ADA, class_name="bright", after=seen[-1])["image"])
    others = ["lot 1/q 1&=.png", "d1.png"]
    assert seen == ["q0.png", *others, "q0.png", "lot 1/q 1&=.png"]
    assert following(page, ADA, class_name="dark")["image"] == "q2.png"
    assert decide(page, ADA, following(page, ADA, class_name="dark"))[0] == 200
    assert following(page, ADA, class_name="dark")["class_name"] == "ok"


def test_seeds_are_drawn_from_nothing_and_undone(page: Any, workspace: Workspace) -> None:
    task = following(page, ADA, "seed")
    assert (task["image"], task["class_name"], task["boxes"]) == ("s0.png", "dark", [])
    box = {"box": [10, 20, 30, 40], "class_name": "dark"}
    assert decide(page, ADA, task, [box])[0] == 200
    assert following(page, ADA, "seed")["image"] == "s1.png"
    (entry,) = Ledger(workspace).states()["s0.png"].entries
    assert (entry.source, entry.decision, entry.box) == ("human", "drawn", (10, 20, 30, 40))
    sample = next(s for s in workspace.samples() if s.image == "s0.png")
    (annotation,) = sample.annotations or ()
    assert annotation.box.corners == pytest.approx((10, 20, 30, 40), abs=1e-6)
    assert (
        page.ask("/api/undo", {**ADA, "pile": "seed", "image": "s0.png", "revision": 1})[0] == 200
    )
    assert open_count(page, "seed") == 2


def test_an_image_of_class_no_defect_takes_no_boxes(page: Any, workspace: Workspace) -> None:
    task = page.ask("/api/open", {**ADA, "pile": "queue", "image": "n.png"})[1]["task"]
    assert (task["reason"], task["boxes"]) == ("said to be empty", [])
    box = {"box": [10, 20, 30, 40], "class_name": "dark"}
    status, answer = decide(page, ADA, task, [box])
    assert status == 422
    assert "change the class in image_labels.csv" in answer["error"]
    assert decide(page, ADA, task, [])[0] == 200


def test_a_class_that_was_changed_in_the_table_counts_at_once(
    page: Any, workspace: Workspace
) -> None:
    task = page.ask("/api/open", {**ADA, "pile": "queue", "image": "n.png"})[1]["task"]
    box = {"box": [10, 20, 30, 40], "class_name": "dark"}
    assert decide(page, ADA, task, [box])[0] == 422
    text = workspace.table.read_text()
    assert "n.png,ok" in text
    workspace.table.write_text(text.replace("n.png,ok", "n.png,dark"))
    assert decide(page, ADA, task, [box])[0] == 200
    assert Ledger(workspace).states()["n.png"].live[0].image_class == "dark"


# --- two people ---


def test_two_people_are_given_different_images(page: Any) -> None:
    first, second = following(page, ADA), following(page, GRACE)
    assert (first["image"], second["image"]) == ("q0.png", "lot 1/q 1&=.png")
    opened = page.ask("/api/open", {**GRACE, "pile": "queue", "image": "q0.png"})[1]["task"]
    assert opened["busy"] == "Ada"
    assert page.ask("/api/keep", {**ADA, "image": "q0.png"}) == (200, {"kept": True})
    assert page.ask("/api/keep", {**GRACE, "image": "q0.png"}) == (200, {"kept": False})


def test_who_is_second_is_told_and_loses_nothing(page: Any, workspace: Workspace) -> None:
    ada = following(page, ADA)
    grace = page.ask("/api/open", {**GRACE, "pile": "queue", "image": ada["image"]})[1]["task"]
    assert decide(page, GRACE, grace)[0] == 200
    mine = [{"box": [1, 1, 9, 9], "class_name": "bright"}]
    status, answer = decide(page, ADA, ada, mine)
    assert (status, answer["error"]) == (409, "q0.png was changed meanwhile")
    fresh = page.ask("/api/open", {**ADA, "pile": "queue", "image": ada["image"]})[1]["task"]
    assert (fresh["changed_by"], fresh["revision"]) == ("Grace", 1)
    assert [box["source"] for box in fresh["boxes"] if box["taken"]] == ["model+confirmed"]
    assert decide(page, ADA, fresh, mine)[0] == 200
    history = Ledger(workspace).history("q0.png")
    assert [[e.who for e in revision] for revision in history] == [["Grace"], ["Ada", "Ada"]]
    assert verify_ledger(workspace).faults == ()


def test_many_at_once_record_each_image_once(page: Any, workspace: Workspace) -> None:
    tasks = [following(page, {"session": f"person-{k}", "who": f"P{k}"}) for k in range(4)]
    assert len({task["image"] for task in tasks}) == 4
    answers: list[tuple[str, int]] = []

    def press(who: int, task: Any) -> None:
        person = {"session": f"person-{who}", "who": f"P{who}"}
        answers.append((task["image"], decide(page, person, task)[0]))

    threads = [threading.Thread(target=press, args=(k, t)) for t in tasks for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for task in tasks:
        codes = sorted(status for image, status in answers if image == task["image"])
        assert codes == [200, 409, 409, 409]
    states = Ledger(workspace).states()
    assert [states[t["image"]].revision - t["revision"] for t in tasks] == [1, 1, 1, 1]
    assert verify_ledger(workspace).faults == ()


def test_boxes_drawn_in_another_program_meanwhile_are_seen_first(
    page: Any, workspace: Workspace
) -> None:
    task = following(page, ADA)
    workspace.label_path("q0.png").write_text("0 0.5 0.5 0.25 0.25\n")
    status, answer = decide(page, ADA, task)
    assert (status, answer["error"]) == (409, "q0.png was changed meanwhile")
    fresh = page.ask("/api/open", {**ADA, "pile": "queue", "image": "q0.png"})[1]["task"]
    assert [b["box"] for b in fresh["boxes"] if b["taken"]] == [[255, 255, 425, 425]]
    assert open_count(page) == 4


def test_a_label_file_edited_by_hand_is_never_written_over(page: Any, workspace: Workspace) -> None:
    task = page.ask("/api/open", {**ADA, "pile": "queue", "image": "d1.png"})[1]["task"]
    path = workspace.label_path("d1.png")
    path.write_text("1 0.5 0.5 0.25 0.25\n")
    status, answer = decide(page, ADA, task)
    assert status == 409
    assert "wafer ledger adopt" in answer["error"]
    assert path.read_text() == "1 0.5 0.5 0.25 0.25\n"


def test_an_image_that_is_gone_or_damaged_is_passed_over(page: Any, workspace: Workspace) -> None:
    workspace.image_path("q0.png").unlink()
    assert following(page, ADA)["image"] == "lot 1/q 1&=.png"
    workspace.image_path("d1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert page.ask("/api/image?image=d1.png")[0] == 422
    assert open_count(page) == 4


# --- ends and starts ---


@pytest.mark.slow
def test_a_killed_server_has_everything_it_acknowledged_and_goes_on(
    workspace: Workspace, pages: Callable[..., Any]
) -> None:
    page = pages(workspace)
    ready, acknowledged = threading.Event(), []

    def work(name: str) -> None:
        person = {"session": f"person-{name}", "who": name}
        try:
            task = following(page, person)
            image, revision = task["image"], task["revision"]
            while True:
                box = {"box": [revision, 1, revision + 9, 9], "class_name": "bright"}
                status, answer = decide(page, person, task, [box])
                assert status == 200
                revision = answer["revision"]
                acknowledged.append((image, revision))
                task = {**task, "revision": revision}
                if len(acknowledged) > 20:
                    ready.set()
        except (OSError, ValueError, EOFError, http.client.HTTPException):  # the server is gone
            return

    threads = [threading.Thread(target=work, args=(name,)) for name in ("Ada", "Grace")]
    for thread in threads:
        thread.start()
    assert ready.wait(60)
    page.kill()
    for thread in threads:
        thread.join()
    ledger = Ledger(workspace)
    for image, revision in acknowledged:
        boxes = [r[0].box for r in ledger.history(image) if r[0].revision == revision]
        assert boxes == [(revision - 1, 1, revision + 8, 9)]
    assert verify_ledger(workspace).faults == ()
    again = pages(workspace, port=page.port)
    assert again.address == page.address
    assert open_count(again) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_renews_the_data_for_training(
    pages: Callable[..., Any], workspace: Workspace, number: signal.Signals
) -> None:
    page = pages(workspace)
    decide(page, ADA, following(page, ADA))
    assert page.stop(number) == 0
    listed = {p.name for p in (workspace.root / ".cache" / "yolo").rglob("*q0*")}
    assert listed


def test_the_token_is_for_the_user_alone_and_stays(workspace: Workspace) -> None:
    token = review_token(workspace)
    assert len(token) >= 43
    path = workspace.cache / "review.token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert review_token(workspace) == token
    path.write_text("short")
    path.chmod(0o644)
    assert review_token(workspace) not in (token, "short")
    assert path.stat().st_mode & 0o777 == 0o600


def test_open_items_of_the_queue_are_those_of_the_page(page: Any, workspace: Workspace) -> None:
    decide(page, ADA, following(page, ADA))
    queue = newest_queue(workspace)
    assert len(open_items(queue, Ledger(workspace).states())) == open_count(page) == 4


def test_a_queue_that_changes_is_read_again(page: Any, workspace: Workspace) -> None:
    (workspace.root / "seed-val.csv").write_text("image,class,split\nq2.png,dark,val\n")
    assert open_count(page, "seed") == 3


def test_the_ledger_is_gone_through_once_however_much_was_decided(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []

    def counted(entries: Any) -> Any:
        passes.append(1)
        return whole_revisions(entries)

    desk = Desk(workspace)
    for _ in range(4):
        task = desk.next("queue", class_name=None, **ADA)
        assert task is not None
        desk.decide("queue", task.image, [], revision=task.revision, **ADA)
    monkeypatch.setattr("wafer.labelling.ledger.whole_revisions", counted)
    for _ in range(3):
        assert desk.progress()[0].open == 1
    assert len(passes) == 1


def test_a_box_of_a_queue_that_was_renewed_is_not_taken_for_one_of_the_new(
    page: Any, workspace: Workspace, renew_queue: Callable[[], None]
) -> None:
    task = following(page, ADA)
    renew_queue()
    open_count(page)  # the server reads it again
    status, answer = decide(page, ADA, task)
    assert (status, answer["error"]) == (409, "other boxes are offered for q0.png by now")
    assert Ledger(workspace).history("q0.png") == ()
    fresh = page.ask("/api/open", {**ADA, "pile": "queue", "image": "q0.png"})[1]["task"]
    assert decide(page, ADA, fresh) == (200, {"revision": 1})
    (entry,) = Ledger(workspace).states()["q0.png"].entries
    assert (entry.box, entry.model) == ((1.5, 2.5, 30.5, 40.5), "cd" * 32)


def test_a_full_disk_is_said_and_loses_nothing(
    pages: Callable[..., Any], workspace: Workspace
) -> None:
    page = pages(workspace)
    task = following(page, ADA)
    before = (workspace.root / "ledger.jsonl").read_bytes()
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    full = (len(before) + 100, resource.RLIM_INFINITY)
    resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, full)
    assert decide(page, ADA, task) == (507, {"error": "not recorded: File too large"})
    assert (workspace.root / "ledger.jsonl").read_bytes() == before
    assert not workspace.label_path("q0.png").exists()
    resource.prlimit(page.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert decide(page, ADA, task) == (200, {"revision": 1})
    assert verify_ledger(workspace).faults == ()


def test_a_taken_port_and_nothing_to_do_are_one_line(workspace: Workspace) -> None:
    from typer.testing import CliRunner

    from wafer.cli import app

    where = ["review", "--workspace", str(workspace.root)]
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))
        taken_port.listen()
        port = taken_port.getsockname()[1]
        result = CliRunner().invoke(app, [*where, "--port", str(port)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"wafer: port {port} cannot be had (Address already in use)")
    (workspace.root / "seed.csv").unlink()
    (workspace.root / "runs" / "propagate" / "yolov5n-001" / "run.json").unlink()
    result = CliRunner().invoke(app, where)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("wafer: there is nothing to look at yet; run `wafer seed 100`")
    assert open_workspace(workspace.root).samples()


def test_answers_are_sent_without_delay(
    sends_at_once: Callable[[socket.socket], bool],
) -> None:
    with listening(0) as listener:
        assert sends_at_once(listener)
