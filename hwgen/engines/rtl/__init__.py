"""The RTL engine: steps -> instructions, memory map, weight image.

    plan.py       passes, merge of tasks, memory map -> `Program`      encode.py   a step with addresses -> an instruction
    hazards.py    what may overlap                                     cycles.py   cycle model
    verify.py     independent check of a program, by replay            touched.py  words an instruction reads and writes
    text.py       a program as text                                    engine.py   all of it behind the protocol
"""

from ...steps.passes.ablation import Ablation
from .plan import MAX_TOKENS, schedule
from .program import PAGE, BufferInfo, InstrInfo, OutputSlice, Program

__all__ = ["MAX_TOKENS", "PAGE", "Ablation", "BufferInfo", "InstrInfo", "OutputSlice", "Program", "schedule"]
