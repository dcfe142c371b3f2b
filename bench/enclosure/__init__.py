"""Where code of a plugin runs: without a road to the held-out events, and watched while it runs.

A plugin shares a process with the data that it is judged on. It is given copies that lead nowhere; this
package closes what else lies open: files (:mod:`bench.enclosure.watch`, :mod:`bench.enclosure.decoy`),
the public rule of candidate sets (:mod:`bench.enclosure.order`) and its own inputs
(:mod:`bench.enclosure.inputs`).
"""

from bench.enclosure.conformance import conformance, record_conformance
from bench.enclosure.decoy import Decoy, with_other_answers, write_decoy
from bench.enclosure.draws import counted_steps, shifted_draws, trained_silently
from bench.enclosure.inputs import arrays_of, frozen
from bench.enclosure.order import known_formula, restored, shuffled
from bench.enclosure.patches import Code, replaced_code
from bench.enclosure.phases import (
    Enclosure,
    enclose_import,
    enclose_run,
    held_out_places,
    own_module,
)
from bench.enclosure.watch import Places, Watch, watched

__all__ = [
    "Code",
    "Decoy",
    "Enclosure",
    "Places",
    "Watch",
    "arrays_of",
    "conformance",
    "counted_steps",
    "enclose_import",
    "enclose_run",
    "frozen",
    "held_out_places",
    "known_formula",
    "own_module",
    "record_conformance",
    "replaced_code",
    "restored",
    "shifted_draws",
    "shuffled",
    "trained_silently",
    "watched",
    "with_other_answers",
    "write_decoy",
]
