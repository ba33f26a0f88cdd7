"""Handlers of what is recorded in the reference environments.

Apart from the environments, which need Gymnasium and NumPy alone: this loads jamboree_gym.
"""

from jamboree_envs.balance import WINDOW
from jamboree_gym import EpisodeHandler

__all__ = ["BalanceHandler"]


class BalanceHandler(EpisodeHandler):
    """Knows the balance of a recorded episode of `jamboree/Balance-v0`.

    It is the `SampleEnvHandler` of the Jamboree README for this environment: `balance`, and
    `transactions`, which every `EpisodeHandler` has.

    Example:
        >>> env = jam.record(gymnasium.make("jamboree/Balance-v0"), handler_class=BalanceHandler)
        >>> observation, info = env.reset(seed=0)
        >>> for value in (4, 3, 5):
        ...     observation, reward, terminated, truncated, info = env.step(value)
        >>> env.handler.balance
        12
    """

    @property
    def balance(self) -> int:
        """Sum of the newest three transaction values; those that are not there yet count as 0.

        Out of memory where this handler records the episode, else in one round trip.

        Raises:
            UnknownKey: No episode is chosen: `handler["episode"] = id`.
            EpisodeNotFound: There is no such episode.
        """
        return int(self.recent(WINDOW).actions.sum())
