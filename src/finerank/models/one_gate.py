"""One-gate mixture: experts that all tasks share, mixed by one gate for all."""

from finerank.models.mmoe import MMoE


class OneGate(MMoE):
    """Mixture of experts with one gate for all tasks (OMoE).

    Source:
        Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts, KDD 2018, doi:10.1145/3219819.3220007, figure 1 (b).
    """

    _kind = "one_gate"
