"""One scenario from its beginning to its end."""

from campaign.faults import Faults
from campaign.harm import Harm
from campaign.outcome import Outcome
from campaign.planting import Planting
from campaign.ways import Ways
from campaign.world import HungError, World

COUNTS = ("left", "harmed", "false", "hung", "needless", "weaker", "excused", "trouble")
BAD = ("left", "harmed", "false", "hung", "trouble")
"""What makes a tree a failure of the campaign."""


def play(world: World) -> None:
    """Play the scenario of this world. What was found is in `world.findings`."""
    planting, faults = Planting(world), Faults(world)
    ways, outcome = Ways(world, planting, faults), Outcome(world, faults)
    try:
        planting.raise_world()
        planting.start_supervisor()
        ways.start_tree()
        faults.inject()
        ways.take_way()
        outcome.await_outcome()
        faults.lift_all()
        outcome.settle()
        Harm(world).judge_strangers()
        outcome.dismiss_supervisor()
        outcome.sweep_up()
    except HungError as hung:
        world.find("hung", f"{hung}\n{world.picture()}")
    finally:
        world.stack.close()
