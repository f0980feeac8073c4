#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/rooms finds what it is for."""
import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "rooms"
loader = importlib.machinery.SourceFileLoader("rooms", str(SCRIPT))
rooms = importlib.util.module_from_spec(importlib.util.spec_from_loader("rooms", loader))
loader.exec_module(rooms)


class Rooms(unittest.TestCase):
    def mistakes(self, name, included):
        found = [(name, rooms.room_of(name), included, rooms.room_of(included))]
        return list(rooms.mistakes(found))

    def test_includes_are_found(self):
        found = list(rooms.includes())
        self.assertGreater(len(found), 300)
        self.assertIn(("host/make_engine.cpp", "host", "cuda/engine/cuda_engine.hpp",
                       "cuda/engine"), found)

    def test_a_file_may_include_its_own_room_and_those_below(self):
        self.assertEqual(self.mistakes("host/core/rule.cpp", "nca/rule.hpp"), [])
        self.assertEqual(self.mistakes("host/tool/grow.cpp", "nca/simulator.hpp"), [])
        self.assertEqual(self.mistakes("nca/trainer.hpp", "nca/image.hpp"), [])

    def test_an_include_upward_is_a_mistake(self):
        for name, included in [("host/core/rule.cpp", "host/files/base64.hpp"),
                               ("cuda/rule/pack_model.cu", "nca/model.hpp"),
                               ("cuda/step/step_forward.cu", "cuda/bands/band.cuh"),
                               ("host/training/trainer.cpp", "host/tool/console.hpp"),
                               ("nca/engine.hpp", "nca/trainer.hpp")]:
            self.assertIn("may not see", self.mistakes(name, included)[0])

    def test_every_file_has_a_room(self):
        self.assertIn("is in no room", self.mistakes("host/attic/a.cpp", "nca/rule.hpp")[0])
        self.assertIn("is in no room", self.mistakes("host/core/a.cpp", "nca/attic.hpp")[0])

    def test_a_circle_is_refused(self):
        with self.assertRaises(SystemExit):
            rooms.layers({room: set(rooms.ROOMS) for room in rooms.ROOMS})


if __name__ == "__main__":
    unittest.main()
