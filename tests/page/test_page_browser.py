"""Each view of the page in a real browser, on a store that was recorded once."""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from conftest import Server
from page_tabs import OpenTab, Tab
from served_page import SURPRISE, record_some

from jamboree_gym import Jamboree
from jamboree_gym.page import app
from jamboree_gym.page.columns import MAX_BYTES, columns_of
from jamboree_gym.page.serving import PageServer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.once,
    pytest.mark.timeout(300),  # a busy machine takes its time
]


@pytest.fixture(scope="module")
def jam(valkey: Server) -> Iterator[Jamboree]:
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    with Jamboree(valkey.url, namespace=namespace, backup=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids(jam: Jamboree) -> dict[str, list[str]]:
    return record_some(jam)


@pytest.fixture(scope="module")
def served(jam: Jamboree, ids: dict[str, list[str]]) -> Iterator[PageServer]:
    with PageServer(jam, port=0, allow_actions=True).start() as page:
        yield page


@pytest.fixture
def tab(open_tab: OpenTab, served: PageServer) -> Tab:
    return open_tab(served.url)


# -- each view ------------------------------------------------------------------------------


def test_the_runs_are_a_table_that_is_filtered_and_compared(tab: Tab) -> None:
    tab.open("/")
    tab.sees("5 runs")
    tab.page.get_by_label("Filter by name").fill("pla")
    tab.sees("1 of 5 runs")
    tab.is_at("text=pla")
    tab.page.get_by_label("Filter by name").fill("")
    runs = ["plain", "balance", "framed", "trained", "dict"]
    for run in runs:
        tab.page.get_by_label(f"Compare {run}").check()
    tab.page.get_by_role("img", name=f"Returns of {', '.join(runs)}").wait_for()
    tab.expect(tab.page.locator("[aria-label='Compared runs'] .legend a")).to_have_text(runs)
    tab.page.reload()
    tab.page.get_by_role("img", name=f"Returns of {', '.join(runs)}").wait_for()
    tab.page.get_by_label("Compare plain").uncheck()
    tab.page.get_by_role("img", name=f"Returns of {', '.join(runs[1:])}").wait_for()


def test_a_run_leads_to_its_outliers_and_filters_its_episodes(tab: Tab, jam: Jamboree) -> None:
    tab.open("/run?run=plain")
    tab.page.get_by_role("img", name="Return over the run").wait_for()
    tab.page.get_by_role("img", name="Distribution of returns").wait_for()
    field = tab.page.get_by_label("Filter: an expression over the columns")
    field.fill("seed < 7 and episode_return > 1")
    count = len(jam.run("plain").episodes.where("seed < 7 and episode_return > 1"))
    rows = tab.page.locator("[aria-label=Episodes] [role=table]")
    tab.until(
        f"document.querySelector('[role=table]')?.getAttribute('aria-rowcount') === '{count + 1}'"
    )
    field.fill("seed <")
    tab.sees("is no expression")
    tab.page.get_by_role("button", name="return", exact=True).first.wait_for()
    field.fill("")
    tab.until("document.querySelector('[role=table]')?.getAttribute('aria-rowcount') === '31'")
    rows.get_by_role("button", name="return").click()
    best = jam.run("plain").episodes.order_by("-episode_return").first()
    tab.until(f"document.querySelector('[data-row=\"0\"] a')?.search.includes('{best.id}')")
    tab.page.locator("[aria-label=Outliers] a").first.click()
    tab.page.get_by_label("Go to step").wait_for()
    tab.is_at(best.id)


def test_a_training_has_metrics_checkpoints_and_its_interruption(tab: Tab, jam: Jamboree) -> None:
    tab.open("/run?run=trained")
    tab.sees("the run was cut off here (1 time)")
    training = tab.page.get_by_label("Training", exact=True)
    training.get_by_text("2 checkpoints, the newest").wait_for()
    tab.expect(training.locator(".state")).to_have_text(["raised", "finished"])
    metrics = tab.page.get_by_label("Metrics", exact=True)
    metrics.get_by_role("img", name="train/loss").wait_for()
    metrics.get_by_role("img", name="rollout/ep_rew_mean").wait_for()
    metrics.get_by_text("0.0625").wait_for()
    training.get_by_text("hyperparameters", exact=True).click()
    training.get_by_role("row", name="hyperparameters.gamma 0.9").wait_for()


@pytest.mark.long  # the test of a run has such a click, test_page_api.py each kind
def test_an_outlier_is_one_click_away(tab: Tab, ids: dict[str, list[str]], jam: Jamboree) -> None:
    run = jam.run("trained").episodes
    episode, step = SURPRISE
    expected = {
        "best": run.order_by("-episode_return").first().id,
        "worst": run.order_by("episode_return").first().id,
        "longest": max(run.summaries(), key=lambda one: one.steps).id,
        "surprise": ids["trained"][episode],
    }
    tab.open("/run?run=trained")
    lines = tab.page.locator("[aria-label=Outliers] a")
    for which, id in expected.items():
        tab.expect(lines.filter(has_text=which)).to_have_attribute("href", re.compile(f"id={id}"))
    surprise = lines.filter(has_text="surprise")
    surprise.get_by_text("value off by").wait_for()
    surprise.get_by_text(f"at step {step}").wait_for()
    surprise.click()
    tab.page.get_by_label("Go to step").wait_for()
    tab.is_at(f"id={expected['surprise']}")
    tab.is_at_step(step)


def test_an_episode_moves_by_keys_and_keeps_its_place(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    id, length = ids["framed"][0], len(jam.episode(ids["framed"][0]))
    tab.open(f"/episode?id={id}")
    tab.sees(re.compile("recorded at step 0"))
    keys = tab.page.keyboard
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"):
        keys.press(key)
    tab.is_at_step(2)
    tab.sees("recorded at step 0, the newest up to 2")
    keys.press("End")
    tab.is_at_step(length)
    keys.press("Home")
    keys.press("Shift+ArrowRight")
    tab.is_at_step(10)
    tab.is_at("step=10")
    tab.page.reload()
    tab.sees("recorded at step 8, the newest up to 10")
    tab.is_at_step(10)
    reward = jam.episode(id).data().rewards[:10].sum()
    tab.expect(tab.page.locator("[data-name=return]").last).to_have_text(f"{reward:g}")
    tab.page.route("**/api/picture?*", lambda asked: asked.fulfill(status=500, body="no"))
    tab.page.reload()
    tab.page.get_by_role("alert").wait_for()
    tab.page.unroute("**/api/picture?*")
    keys.press("Home")
    tab.expect(tab.page.locator("figcaption")).to_have_text("recorded at step 0")


def test_space_plays_and_pauses(tab: Tab, ids: dict[str, list[str]]) -> None:
    tab.open(f"/episode?id={ids['framed'][0]}&speed=60")
    tab.page.get_by_label("Go to step").wait_for()
    tab.page.keyboard.press(" ")
    tab.until("Number(document.querySelector('[aria-label=\"Go to step\"]')?.value) > 3")
    tab.page.keyboard.press(" ")
    tab.page.get_by_role("button", name="Play").wait_for()


def test_a_frame_is_simulated_and_says_that_it_is_verified(
    tab: Tab, ids: dict[str, list[str]]
) -> None:
    tab.open(f"/episode?id={ids['plain'][0]}&step=3")
    tab.page.get_by_role("button", name="simulate again, verified").click()
    tab.sees("simulated again and verified: equal to the recording, bit for bit, up to step 3")
    drawn = tab.page.evaluate(
        """() => { const c = document.querySelector('canvas[aria-label="Rendered frame"]');
        const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        return [c.width, c.height, new Set(data).size]; }"""
    )
    assert drawn[:2] == [600, 400]
    assert drawn[2] > 4


@pytest.mark.long  # it is one more plot
def test_the_balance_that_the_agent_does_not_see_is_drawn(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    id = ids["balance"][0]
    actions = jam.episode(id).data().actions
    tab.open(f"/episode?id={id}&step=2")
    tab.page.get_by_role("img", name="balance over the episode").wait_for()
    tab.expect(tab.page.locator("[data-name=balance]")).to_have_text(str(actions[:2].sum()))


PIXELS = """label => { const c = document.querySelector(`canvas[aria-label="${label}"]`);
    const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
    const bytes = Array.from(data, (one) => String.fromCharCode(one)).join('');
    return [c.height, c.width, btoa(bytes)]; }"""


def pixels(tab: Tab, label: str, step: int) -> np.ndarray:
    """What a canvas shows, once it is that of a step."""
    tab.until(
        f"document.querySelector('canvas[aria-label=\"{label}\"]')?.dataset.step === '{step}'"
    )
    height, width, values = tab.page.evaluate(PIXELS, label)
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(height, width, 4)[..., :3]


def test_a_dict_observation_is_plots_and_pictures(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    id = ids["dict"][0]
    observations = jam.episode(id).data().observations
    tab.open(f"/episode?id={id}&step=3")
    tab.page.get_by_role("img", name="observation_speed over the episode").wait_for()
    assert np.array_equal(pixels(tab, "observation_image", 3), observations["image"][3])
    tab.page.keyboard.press("ArrowRight")
    assert np.array_equal(pixels(tab, "observation_image", 4), observations["image"][4])
    tab.sees("speed: 0.5")


@pytest.mark.long  # pictures of a dict are shown in the same way
def test_an_atari_episode_shows_its_frames_and_what_the_agent_sees(
    open_tab: OpenTab, jam: Jamboree
) -> None:
    import ale_py

    gym.register_envs(ale_py)
    env = jam.record(gym.make("ALE/Pong-v5", render_mode="rgb_array"), run="atari", record_frames=2)
    env.reset(seed=1)
    for action in range(5):
        env.step(action)
    env.close()
    episode = jam.episodes(run="atari").first()
    frames, observations = dict(episode.renders()), episode.data().observations
    with PageServer(jam, port=0).start() as page:
        tab = open_tab(page.url).open(f"/episode?id={episode.id}&step=4")
        tab.sees("recorded at step 4")
        assert np.array_equal(pixels(tab, "Rendered frame", 4), frames[4])
        assert np.array_equal(pixels(tab, "observation", 4), observations[4])
    episode.delete()


def test_what_the_agent_said_is_plots_and_bars(tab: Tab, ids: dict[str, list[str]]) -> None:
    tab.open(f"/episode?id={ids['trained'][0]}&step=3")
    for name in ("value", "probabilities", "action", "reward", "return", "observation"):
        tab.page.get_by_role("img", name=f"{name} over the episode").wait_for()
    bars = [re.compile(r"probabilities_0\s*0\.250"), re.compile(r"probabilities_1\s*0\.750")]
    tab.expect(tab.page.locator("[data-chance]")).to_have_text(bars)
    tab.expect(tab.page.locator("[data-name=annotation_value]").last).to_have_text("5")


def test_two_episodes_are_compared_where_they_part(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    tab.open(f"/compare?a={ids['plain'][0]}&b={ids['fork'][0]}")
    tab.sees("step 5 of")
    tab.page.get_by_text("action at step 5").wait_for()
    tab.page.get_by_role("img", name="observation_0 over the episode").wait_for()
    tab.page.keyboard.press("ArrowRight")
    earned = jam.episode(ids["plain"][0]).data().rewards[:6].sum()  # the fork, too, has earned it
    cell = "document.querySelector('[data-name=\"b return\"]')?.textContent"
    tab.until(f"{cell} === '{earned:g}'")


def test_a_tree_of_forks_leads_to_its_episodes(tab: Tab, ids: dict[str, list[str]]) -> None:
    tab.open(f"/lineage?id={ids['fork'][0]}")
    tab.page.get_by_role("treeitem").nth(1).wait_for()
    tab.sees("at step 5")
    tab.page.get_by_text("compare with its parent").click()
    tab.sees("Two episodes")


def test_fork_here_shows_code_that_works(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    tab.open(f"/episode?id={ids['plain'][1]}&step=4")
    tab.page.get_by_role("button", name="fork here").click()
    shown = tab.page.locator("[aria-label=Fork] pre").first
    tab.expect(shown).to_contain_text(".fork(4)")
    code = shown.inner_text()
    lines = [line for line in code.splitlines() if not line.startswith(("from", "jam ="))]
    names: dict[str, Any] = {"jam": jam}
    exec("\n".join(lines), names)
    names["env"].close()
    fork = jam.episodes(run="plain", forks=True).last()
    assert (fork.summary.parent, fork.summary.fork_step) == (ids["plain"][1], 4)
    fork.delete()


def test_a_flag_is_set_and_deleted_on_the_page(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree
) -> None:
    tab.open(f"/episode?id={ids['plain'][5]}&step=2")
    tab.page.get_by_label("Note for a flag at this step").fill("leans")
    tab.page.get_by_role("button", name="flag", exact=True).click()
    tab.expect(tab.page.locator("[aria-label=Flags] .note")).to_have_text("leans")
    assert [str(one) for one in jam.episode(ids["plain"][5]).flags()] == ["step 2: leans"]
    tab.open("/run?run=plain").page.get_by_label("flagged (1)").check()
    tab.until("document.querySelector('[role=table]')?.ariaRowCount === '2'")
    flagged = tab.page.locator(f"[data-row='0'] a[href*='{ids['plain'][5]}']")
    flagged.wait_for()  # the row may still be that of all episodes
    tab.page.get_by_role("img", name="flagged").wait_for()
    flagged.click()
    tab.page.get_by_role("button", name="step 2").click()
    tab.is_at_step(2)
    tab.page.get_by_role("button", name="delete flags").click()
    tab.expect(tab.page.locator("[aria-label=Flags]")).to_contain_text("None.")
    assert not jam.episode(ids["plain"][5]).flags()


def test_what_is_not_there_says_what_to_do(
    open_tab: OpenTab, valkey: Server, namespace: str
) -> None:
    with (
        Jamboree(valkey.url, namespace=namespace, backup=False) as empty,
        PageServer(empty, port=0).start() as page,
    ):
        tab = open_tab(page.url).open("/")
        tab.sees("Nothing has been recorded here yet")
        tab.sees("jam.record(gym.make")
        tab.open("/run?run=none").sees("There is no such run")
        tab.open(f"/episode?id={'f' * 32}").sees("There is no such episode")


def test_a_large_episode_shows_exact_values_at_the_cursor(
    tab: Tab, ids: dict[str, list[str]], jam: Jamboree, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jam.episode(ids["plain"][0]).data()

    def bounded(episode: Any, start: int, stop: int | None) -> bytes:
        return columns_of(episode, start, stop, most_bytes=300 if stop is None else MAX_BYTES)

    monkeypatch.setattr(app, "columns_of", bounded)
    tab.open(f"/episode?id={ids['plain'][0]}&step=3")
    tab.page.get_by_role("img", name="observation over the episode").wait_for()
    cell = "document.querySelector('[data-name=observation_0]')"
    shown = f"Number({cell}?.textContent.replace('\\u2212', '-'))"
    expected = float(data.observations[3, 0])
    tab.until(f"Math.abs({shown} - {expected}) <= 1e-3 * Math.abs({expected})")
    tab.page.locator("[aria-label=Transitions] .row.here").wait_for()


# -- wide and narrow, and for everybody -------------------------------------------------------

# Tables whose columns do not fit.
CUT_OFF = """[...document.querySelectorAll('.table .body')]
    .filter(one => one.scrollWidth > one.clientWidth).length"""
SIZES = [
    {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
]
LOOKS = 30


def obstacles(tab: Tab) -> list[tuple[str, ...]]:
    """What keeps somebody from using the page, as axe sees it now."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (one["id"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"][:300])
        for one in Axe().run(tab.page).response["violations"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(
    ("options", "is_thorough"),
    [
        pytest.param(SIZES[0], True, id="wide"),
        pytest.param(SIZES[1], False, id="narrow, its width only", marks=pytest.mark.long),
        pytest.param(SIZES[1], True, id="narrow", marks=pytest.mark.long),
    ],
)
def test_everybody_can_use_each_view(
    *,
    open_tab: OpenTab,
    served: PageServer,
    ids: dict[str, list[str]],
    options: dict[str, Any],
    is_thorough: bool,
) -> None:
    tab = open_tab(served.url, **options)
    plain, fork = ids["plain"][0], ids["fork"][0]
    views = {
        "/?compare=plain": "[aria-label='Returns of plain']",
        "/run?run=trained": "[aria-label=Training]",
        f"/episode?id={ids['framed'][0]}": "[data-row='0'] button",
        f"/compare?a={plain}&b={fork}": ".cursor-line",
        f"/lineage?id={plain}": "[role=treeitem]",
    }
    for path, mark in views.items():
        tab.open(path).page.locator(mark).first.wait_for()
        for size in (SIZES[1]["viewport"], options["viewport"]):  # of the narrow one, its width
            tab.page.set_viewport_size(size)
            tab.until(f"innerWidth === {size['width']}")
            tab.until("document.documentElement.scrollWidth <= innerWidth")
            tab.until(f"{CUT_OFF} === 0")
        is_known = options is SIZES[1] and "compare" in path  # its colours and parts
        if is_known or not is_thorough:
            continue
        for _ in range(LOOKS):  # what is still being drawn may not be readable yet
            found = obstacles(tab)
            if not found:
                break
            tab.page.wait_for_timeout(1000)
        assert not found, (path, json.dumps(found, indent=1))
