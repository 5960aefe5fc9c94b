"""Guidance: draw what tells a class from all others, more than the class itself does.

Classifier-free guidance (Ho and Salimans 2022, section 3.2) in a model whose pixels have a
finite number of levels, where it needs no approximation:

    P'(level) ~ P(level | class) * min(P(level | class) / P(level), e)^guidance

each given the pixels before it, normalized over the levels; P(level) is the model's own, with
the condition withheld. 0 is the class's distribution. Above 0 the drawings are no draws of
p(drawing | class): there are fewer odd ones, and fewer kinds.

The minimum is ours. Without it a level that neither distribution expects (1e-4 and 1e-7, say)
becomes likely by their ratio alone, which is where both are least exact: crumbs of ink in
empty corners.
"""

from model.likelihood import LevelLogits, Params

# Nats that one pixel may say for a level: 2 still leaves crumbs, 1 none that was seen, and a judge
# knows as many of the drawings as without a bound (model/EXPERIMENTS.md).
MAX_EVIDENCE = 1.0


def guide(
    given: Params, withheld: Params, *, guidance: float, temperature: float = 1.0
) -> LevelLogits:
    """Return the guided distribution of each pixel of one channel.

    given, withheld: the model's parameters with the condition and without it
    temperature: sharpens both first, as it does without guidance
    """
    own = given.level_log_probs(temperature=temperature)
    evidence = own - withheld.level_log_probs(temperature=temperature)
    return LevelLogits(own + guidance * evidence.clamp_max(MAX_EVIDENCE), given.low)
