"""The page with several returns of an episode, and with several agents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from page_tabs import OpenTab, Tab
from playwright.sync_api import expect
from recorded_envs import ACTION, ScriptedEnv

from jamboree_gym import Jamboree
from jamboree_gym.page.serving import PageServer

pytestmark = [pytest.mark.browser, pytest.mark.once]
expect.set_options(timeout=60_000)  # on a busy machine
MINUS = "\u2212"
REWARDS = [np.array([1.5, -1.0]), np.array([0.25, -1.0]), np.array([2.0, -1.0])]


@pytest.fixture
def jam(open_jamboree: Callable[..., Jamboree]) -> Jamboree:
    """A run with two returns, and one of two agents."""
    from pettingzoo.classic.tictactoe import tictactoe

    opened = open_jamboree(backup=False)
    scripted = ScriptedEnv(rewards=REWARDS)
    scripted.length = len(REWARDS)
    env = opened.record(scripted, run="several")
    for steps in (3, 2, 3):  # the second is given up, so its return is in no curve
        env.reset(seed=steps)
        for _ in range(steps):
            env.step(ACTION)
    env.close()
    team = opened.record(tictactoe.env(), run="team")
    team.reset(seed=1)
    for square in range(7):  # the first player has a diagonal
        team.step(square)
    team.close()
    opened.flush()
    return opened


@pytest.fixture
def tab(jam: Jamboree, open_tab: OpenTab) -> Iterator[Tab]:
    with PageServer(jam, port=0).start() as page:
        yield open_tab(page.url)


def test_each_return_and_each_reward_is_shown(jam: Jamboree, tab: Tab) -> None:
    tab.open("/")
    row = tab.page.get_by_role("row").filter(has_text="several")
    expect(row).to_contain_text("stopped")
    tab.open("/run?run=several")
    curves = tab.page.get_by_role("region", name="Curves")
    expect(curves).to_contain_text(f"newest: 3.750, {MINUS}3")
    expect(curves.locator(".legend li")).to_have_count(2)
    expect(tab.page.get_by_role("region", name="Outliers")).to_contain_text("return_0 > 5")
    tab.open(f"/episode?id={jam.run('several').episodes.first().id}&step=2")
    here = tab.page.get_by_role("region", name="At this step")
    expect(here.get_by_role("row").filter(has_text="reward 0")).to_contain_text("2")
    expect(here.get_by_role("row").filter(has_text="reward 1")).to_contain_text(f"{MINUS}1")
    transitions = tab.page.get_by_role("region", name="Transitions")
    expect(transitions.get_by_text("reward_1", exact=True)).to_be_visible()


@pytest.mark.long  # the page adds only a link; multi_agent/ has what it reads
def test_the_episode_of_one_agent_leads_to_all_of_them(jam: Jamboree, tab: Tab) -> None:
    one = jam.run("team").episodes.first()
    tab.open("/")
    expect(tab.page.get_by_role("row").filter(has_text="team")).not_to_contain_text("joint=")
    tab.open(f"/episode?id={one.id}")
    expect(tab.page.get_by_role("region", name="Pictures")).to_contain_text(
        f"jamboree-gym replay {one.id}"
    )
    expect(tab.page.get_by_role("button", name=re.compile("simulate|fork here"))).to_have_count(0)
    tab.page.get_by_role("link", name="agent player_1").click()
    expect(tab.page.locator("[data-row]")).to_have_count(2)
