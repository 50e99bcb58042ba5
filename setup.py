"""The one thing pyproject.toml cannot say: data folders of the checkout land in the wheel as ``hwgen/_data/<name>``."""

from pathlib import Path
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

DATA = ("boards", "templates", "rtl/sv", "hls", "sim/tb", "flows")     # those of them that exist
IGNORE = shutil.ignore_patterns("__pycache__", "*.pyc")
ROOT = Path(__file__).resolve().parent


class BuildWithData(build_py):
    """Copies the data folders; an editable install reads them in the checkout instead (hwgen/paths.py)."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for name in DATA:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, Path(self.build_lib, "hwgen", "_data", name), dirs_exist_ok=True, ignore=IGNORE)


setup(cmdclass={"build_py": BuildWithData})
