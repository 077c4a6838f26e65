"""The idea: where batch normalization and dropout stand in a hidden block.

A hidden block is a layer with weights, an activation, and the operations of an arrangement in its order. A
position says where the operations stand relative to the activation:

    after   Linear → activation → operations            (the blog's)
    before  Linear → operations → activation
    around  Linear → first → activation → second      (bn_dropout: the classical Linear → BN → ReLU → Dropout)

Strings alone: `networks` makes layers of them, and everything else that must know an arrangement asks here.
"""

# A name spells its operations in order. Layer normalization is the control: it keeps no running statistics.
ARRANGEMENTS = ("none", "dropout", "bn", "bn_dropout", "dropout_bn", "ln", "ln_dropout", "dropout_ln")
POSITIONS = ("after", "before", "around")
ACTIVATIONS = {"relu": "ReLU", "leaky_relu": "LeakyReLU", "gelu": "GELU", "tanh": "Tanh"}  # named in torch.nn
HOMOGENEOUS = ("relu", "leaky_relu")  # f(a x) = a f(x) for a ≥ 0
NOISES = ("bernoulli", "uniform", "channel")


def operations(arrangement: str) -> list[str]:
    """What an arrangement puts into a block, in order: `bn` and `ln` (batch, layer norm) and `dropout`."""
    return [] if arrangement == "none" else arrangement.split("_")


def has(arrangement: str, operation: str) -> bool:
    return operation in operations(arrangement)


def order(arrangement: str, position: str) -> list[str]:
    """The operations of a block behind its weights, in order, the activation among them."""
    names = operations(arrangement)
    if position == "after":
        return ["activation", *names]
    if position == "before":
        return [*names, "activation"]
    # Around, one operation alone takes the place it has in bn_dropout: BN in front, dropout behind.
    first = 0 if names == ["dropout"] else 1
    return [*names[:first], "activation", *names[first:]]


def same_network(arrangement: str, position: str, activation: str = "relu") -> list[tuple[str, str]]:
    """All (arrangement, position) pairs that are this very network, itself among them, in POSITIONS' order.

    A non-negative factor per unit commutes with a homogeneous activation: Dropout → ReLU is ReLU → Dropout.
    So of the six blocks with both BN and dropout four are distinct.
    """

    def normal_form(arrangement: str, position: str) -> list[str]:
        names = order(arrangement, position)
        at = names.index("activation")
        if activation in HOMOGENEOUS and names[at - 1 : at] == ["dropout"]:
            names[at - 1 : at + 1] = ["activation", "dropout"]
        return names

    form = normal_form(arrangement, position)
    return [(arrangement, p) for p in POSITIONS if normal_form(arrangement, p) == form]
