"""Record an episode on the embedded servers and read it back: CI runs it on the built wheel."""

import gymnasium as gym

import jamboree_envs  # noqa: F401  # it is in the wheel too
from jamboree_gym import Jamboree

with Jamboree() as jam:
    env = jam.record(gym.make("CartPole-v1"), run="smoke")
    env.reset(seed=0)
    steps, done = 0, False
    while not done:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        steps, done = steps + 1, terminated or truncated
    env.close()
    jam.flush()
    kept = jam.episodes(run="smoke").first()
    if len(kept.data()) != steps:
        raise SystemExit(f"played {steps} steps, kept {len(kept.data())}")
print(f"recorded and read back an episode of {steps} steps")
