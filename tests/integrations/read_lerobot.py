"""Reads a data set with `LeRobotDataset`; run by test_lerobot.py in a Python that has it."""

import json
import sys

from lerobot.datasets.lerobot_dataset import LeRobotDataset

data = LeRobotDataset("some/one", root=sys.argv[1])
items = [data[k] for k in range(len(data))]
around = LeRobotDataset(
    "some/one", root=sys.argv[1], delta_timestamps={"action": [0, 1 / data.fps]}
)
found = {
    "length": len(data),
    "episodes": data.num_episodes,
    "items": [
        {name: one if name == "task" else one.tolist() for name, one in item.items()}
        for item in items
    ],
    "pairs": [around[k]["action"][:, 0].tolist() for k in range(len(data))],
    "stats": {
        name: {kind: value.tolist() for kind, value in one.items()}
        for name, one in data.meta.stats.items()
    },
}
print(json.dumps(found))
