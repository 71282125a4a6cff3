"""Print the shell command of the README that follows the marker ``<!-- run: NAME -->``."""

import re
import sys
from pathlib import Path

readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
found = re.search(rf"<!-- run: {re.escape(sys.argv[1])} -->\s*```sh\n(.*?)```", readme, re.DOTALL)
if found is None:
    sys.exit(f"README.md has no command marked <!-- run: {sys.argv[1]} -->")
print(found[1].strip())
