"""The graph with one node for each kind of stage, in Mermaid: `python -m workflow.engines.picture`.

Both engines draw a node for each model and seed: `dvc dag --mermaid`, `snakemake --rulegraph mermaid-js`.
"""

from workflow.errors import one_line


def picture() -> str:
    """A Mermaid flowchart of dvc.yaml; what follows from other arrows is left out."""
    import networkx
    from dvc.repo import Repo

    edges = [(after.addressing, before.addressing) for after, before in Repo().index.graph.edges]
    each = {name.partition("@")[0] for edge in edges for name in edge if "@" in name}
    kinds = networkx.DiGraph((before.partition("@")[0], after.partition("@")[0]) for after, before in edges)
    order = list(networkx.lexicographical_topological_sort(kinds))
    arrows = sorted(networkx.transitive_reduction(kinds).edges, key=lambda edge: [order.index(end) for end in edge])
    nodes = [f'    {kind}["{kind}: each model and seed"]' for kind in order if kind in each]
    return "\n".join(["flowchart LR", *nodes, *(f"    {before} --> {after}" for before, after in arrows)]) + "\n"


if __name__ == "__main__":
    with one_line():
        print(picture(), end="")
