"""Checks that the one run under a folder learned: `check_result.py FOLDER LEAST_ACCURACY`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

folder, least = Path(sys.argv[1]), float(sys.argv[2])
results = sorted(folder.glob("*/result.json"))
if len(results) != 1:
    sys.exit(f"Expected one result.json under {folder}/*/; received: {len(results)}.")
accuracy = json.loads(results[0].read_text(encoding="utf-8"))["eval/label_top_1_accuracy"]
print(f"test accuracy {accuracy:.4f} (at least {least})")
sys.exit(accuracy < least)
