"""Guidance: draw what tells a class from all others, more than the class itself does.

Classifier-free guidance (Ho and Salimans 2022, section 3.2) in a model whose pixels have a
finite number of levels, where it needs no approximation:

    P'(level) ~ P(level | class) * (P(level | class) / P(level))^guidance

each given the pixels before it, normalized over the levels; P(level) is the model's own, with
the condition withheld. 0 is the class's distribution. Above 0 the drawings are no draws of
p(drawing | class): there are fewer odd ones, and fewer kinds.
"""

from model.likelihood import LevelLogits, Params


def guide(
    given: Params, withheld: Params, *, guidance: float, temperature: float = 1.0
) -> LevelLogits:
    """Return the guided distribution of each pixel of one channel.

    given, withheld: the model's parameters with the condition and without it
    temperature: sharpens both first, as it does without guidance
    """
    own = given.level_log_probs(temperature=temperature)
    ratio = own - withheld.level_log_probs(temperature=temperature)
    return LevelLogits(own + guidance * ratio, given.low)
