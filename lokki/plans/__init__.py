"""The operations of a flow as data: what runs in which order, side by side or instead of others, and who reads what.

`lokki.graph` makes them of a drawn flow, and `lokki.plan` holds them. Local run, builder, handler, and all that shows a
run follow them, and none of them asks the user's code again what the flow looks like.

============  ==================================================================================================
`templates`   the arguments of a call: JSON with places for parameters of the flow and for values of the run
`operations`  calls, map blocks, forks and switches, and the walks over them: what is read, what is given
`units`       what was drawn, each operation in its place
`resolving`   from chains to units, in the order in which they were drawn, with ids; draws flows that are steps
`fitting`     whether the steps take what comes to them, by their annotations
`switching`   the cases of switches, against what their steps return
`arguments`   what a step was called with in the flow, as templates
`arranging`   what is independent goes side by side
`levels`      maps below maps as flat maps, with what regroups items between them; and back, for who shows them
`passing`     calls of lokki's own before a map over a parameter of the flow, or over what a switch gave
============  ==================================================================================================

A plan is a block: operations that run one after another. A `Fork` holds blocks that run side by side, a `Switch` holds
blocks of which one runs, a `FanOut` holds the block that each item goes through, in which there is no other `FanOut`:
a map with a map below it is several of them. Each call, map block, fork and switch
has an id of its own in the whole flow. Whatever is read is named by a `Source`: the result of a call or a switch, all
results of a map block, or the item that a map block is at. No operation reads what may not have run: what is inside
of a switch or of a map block is read there only.

Start with `operations.Block`, and with `operations.read_from_outside`, by which each engine decides what it must keep
for later.
"""
