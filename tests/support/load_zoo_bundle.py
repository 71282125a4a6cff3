"""Load a bundle of the zoo's form as its consumers do; run by test_vae.py, from a folder that knows nothing of it."""

import json
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigWorkflow, create_workflow, load


def main() -> None:
    bundle, data = Path(sys.argv[1]), Path(sys.argv[2])
    network = load(bundle.name, bundle_dir=str(bundle.parent))
    torch.save(network.state_dict(), data / "loaded.pt")
    workflow = create_workflow(
        config_file=str(bundle / "configs" / "inference.json"),
        workflow_type="inference",
        dataset_dir=str(data / "bids"),
        output_dir=str(data / "zoo_latents"),
    )
    workflow.run()
    workflow.finalize()
    properties = {}
    for name in ("train", "inference"):
        checked = ConfigWorkflow(
            str(bundle / "configs" / f"{name}.json"), workflow_type=name, dataset_dir=str(data / "bids")
        )
        checked.initialize()
        properties[name] = checked.check_properties()
    print(json.dumps({"loaded": type(network).__name__, "properties": properties}))


if __name__ == "__main__":
    main()
