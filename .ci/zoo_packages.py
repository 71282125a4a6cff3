"""Print what a bundle's metadata.json asks to be installed, one requirement a line, without this package itself."""

import json
import sys
from pathlib import Path

metadata = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
named = {"torch": "pytorch", "monai": "monai", "numpy": "numpy"}
packages = {name: metadata[f"{key}_version"] for name, key in named.items()}
packages |= metadata["required_packages_version"]
if packages.pop("monai-betavae", None) is None:
    sys.exit(f"{sys.argv[1]} doesn't ask for monai-betavae")
print("\n".join(f"{name}=={version}" for name, version in packages.items()))
