"""The versions that pip's installation report (`pip install --dry-run --report FILE`) names, as constraints."""

import json
import sys
from pathlib import Path

installed = json.loads(Path(sys.argv[1]).read_text("utf-8"))["install"]
for item in sorted(installed, key=lambda item: item["metadata"]["name"]):
    # a folder is ourselves
    if "dir_info" not in item["download_info"]:
        print(f"{item['metadata']['name']}=={item['metadata']['version']}")
