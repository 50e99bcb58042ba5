"""Feeds, stationary operands and stages of a step, one file each."""

from .add import Add
from .base import Feed, Queue, Run, Stage
from .bias import Bias
from .choose import Choose
from .constant import Constant
from .exp2 import Exp2
from .gather import Gather
from .host import Host
from .mean import Mean
from .multiply import Multiply
from .normalize import Normalize
from .pick import Pick
from .plain import Plain
from .requant import Requant
from .rescale import Rescale
from .restore import Restore
from .rotate import Rotate
from .route import Route
from .row_factor import RowFactor
from .score import Score
from .table import Table
from .tile import Diagonal, Identity, Keys, Stationary, Tile, Values

FEEDS: tuple[type[Feed], ...] = (Plain, Host, Constant, Normalize, Rescale, Exp2, Gather)
TILES: tuple[type[Tile], ...] = (Stationary, Diagonal, Keys, Values, Identity)
STAGES: tuple[type[Stage], ...] = (Requant, Restore, RowFactor, Table, Multiply, Rotate, Bias, Score, Add, Mean, Route, Choose, Pick)

__all__ = ["FEEDS", "STAGES", "TILES", "Add", "Bias", "Choose", "Constant", "Diagonal", "Exp2", "Feed", "Gather", "Host", "Identity", "Keys",
           "Mean", "Multiply", "Normalize", "Pick", "Plain", "Queue", "Requant", "Rescale", "Restore", "Rotate", "Route", "RowFactor", "Run",
           "Score", "Stage", "Stationary", "Table", "Tile", "Values"]
