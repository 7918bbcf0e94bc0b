"""What scripts/advisories and scripts/licences let pass, and what not."""

import importlib.machinery
import importlib.util
import pathlib
import subprocess
import tempfile
import unittest

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"


def load(name):
    loader = importlib.machinery.SourceFileLoader(name, str(SCRIPTS / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


class Advisories(unittest.TestCase):
    def test_each_series_has_its_floor(self):
        passes = load("advisories").passes
        floors = ["0.8.6", "0.9.3"]
        self.assertTrue(all(passes(version, floors) for version in ["0.8.6", "0.8.10", "0.9.3", "0.10.0", "1.0.0+build"]))
        self.assertFalse(any(passes(version, floors) for version in ["0.8.5", "0.9.2", "0.7.9"]))
        self.assertTrue(passes("1.38.0", ["0.8.11"]))
        self.assertFalse(passes("1.44.1", ["1.44.2"]))

    def test_a_version_below_its_floor_and_a_line_without_a_crate_are_faults(self):
        crates = [line.split()[0] for line in (SCRIPTS / "advisories.floors").read_text().splitlines() if line[0] != "#"]
        self.assertGreater(len(crates), 20)
        packages = [f'[[package]]\nname = "{crate}"\nversion = "99.0.0"\n' for crate in crates if crate != "h2"]
        with tempfile.NamedTemporaryFile("w", suffix=".lock") as lock:
            lock.write("".join([*packages, '[[package]]\nname = "bytes"\nversion = "1.11.0"\n']))
            lock.flush()
            run = subprocess.run([SCRIPTS / "advisories", lock.name], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(run.returncode, 1)
        self.assertEqual(len(run.stderr.splitlines()), 2, run.stderr)
        self.assertIn("bytes 1.11.0 is below 1.11.1: RUSTSEC-2026-0007", run.stderr)
        self.assertIn("h2 is not in", run.stderr)


class Licences(unittest.TestCase):
    def test_a_choice_is_made_among_the_allowed(self):
        choose = load("licences").choose
        for expression, chosen in [
            ("MIT OR Apache-2.0", ["MIT"]),
            ("MIT/Apache-2.0", ["MIT"]),
            ("GPL-3.0-only OR Apache-2.0", ["Apache-2.0"]),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", ["MIT", "Unicode-3.0"]),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0", ["Apache-2.0"]),
            ("Apache-2.0 WITH LLVM-exception", ["Apache-2.0 WITH LLVM-exception"]),
        ]:
            self.assertEqual(choose(expression), chosen, expression)

    def test_what_is_not_on_the_list_is_refused(self):
        choose = load("licences").choose
        for expression in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "(MIT OR ISC) AND MPL-2.0", "GPL-2.0 WITH Classpath-exception-2.0", ""]:
            self.assertIsNone(choose(expression), expression)


if __name__ == "__main__":
    unittest.main()
