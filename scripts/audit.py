"""Ask an advisory service for known vulnerabilities in the packages of this environment.

    python scripts/audit.py

Exits with 1 if one is found. If the service cannot be reached, or knows none of the packages, as with some mirrors of package
indexes, it says that nothing was checked and exits with 0.
"""

import json
import subprocess
import sys
from typing import Any

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--local", "--skip-editable"),
    *("--format", "json", "--progress-spinner", "off", "--timeout", "10"),
)


def main() -> int:
    """Print what was found. Return the exit status."""
    try:
        child = subprocess.run(COMMAND, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired:
        print("audit: nothing was checked: the advisory service did not answer in ten minutes")
        return 0
    try:
        packages: list[dict[str, Any]] = json.loads(child.stdout)["dependencies"]
    except (ValueError, KeyError, TypeError):
        said = child.stderr.strip().splitlines() or ["no message"]
        print(f"audit: nothing was checked: the advisory service cannot be reached ({said[-1]})")
        return 0
    audited = [package for package in packages if "vulns" in package]
    vulnerable = [package for package in audited if package["vulns"]]
    for package in vulnerable:
        for found in package["vulns"]:
            mended = ", ".join(found.get("fix_versions", [])) or "no version yet"
            names = ", ".join([found["id"], *found.get("aliases", [])])
            print(f"audit: {package['name']} {package['version']}: {names}; mended in {mended}")
    if not audited:
        print(f"audit: nothing was checked: this index has no advisories for any of {len(packages)} packages")
    elif not vulnerable:
        print(f"audit: no known vulnerability in {len(audited)} packages; {len(packages) - len(audited)} are not known")
    return 1 if vulnerable else 0


if __name__ == "__main__":
    sys.exit(main())
