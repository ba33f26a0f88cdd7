"""Reads episodes with RLDS' own library; run by test_rlds.py in a Python that has it."""

import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

sys.modules["reverb"] = sys.modules["reverb.structured_writer"] = MagicMock()  # for patterns only

import rlds  # noqa: E402
import tensorflow as tf  # noqa: E402


def steps_of(path: Path) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(dict(np.load(path)))


paths = sorted(Path(sys.argv[1]).glob("*.npz"))
episodes = tf.data.Dataset.from_generator(
    lambda: ({"steps": steps_of(path)} for path in paths),
    output_signature={"steps": tf.data.DatasetSpec(steps_of(paths[0]).element_spec)},
)
pairs = episodes.flat_map(
    lambda episode: rlds.transformations.batch(
        episode["steps"], size=2, shift=1, drop_remainder=True
    )
)
mean, _ = rlds.transformations.mean_and_std(episodes, rlds.transformations.sar_fields_mask)
print(
    json.dumps(
        {
            "is_valid": rlds.rlds_types.is_valid_rlds_dataset(episodes),
            "mean_reward": float(mean["reward"]),
            "pairs": [
                [*map(float, pair["observation"][:, 0]), float(pair["action"][0, 0])]
                for pair in pairs
            ],
        }
    )
)
