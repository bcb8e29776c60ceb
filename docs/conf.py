"""How Sphinx builds this site: `make site`. Pages are Markdown; the API reference is made from the docstrings of the
installed package, so that there is one text of each.

Sphinx rather than mkdocs-material with mkdocstrings, because the docstrings are those of a compiled module: autodoc asks
the module itself, which has signatures and numpydoc text at run time, while mkdocstrings reads sources, of which there
are none; and because it has builders for warnings, links and examples of its own.
"""

import pathlib

import polyglot_bridge

project = "Polyglot Bridge"
author = "the maintainers of Polyglot Bridge"
version = release = polyglot_bridge.__version__
copyright = f"{author}; MIT licence"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# What bench/ holds is text for other pages.
exclude_patterns = ["_build", "bench"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# README's tables are included here; its links are meant for the folder it lies in.
suppress_warnings = ["myst.xref_missing", "myst.header"]

html_theme = "furo"
html_title = f"Polyglot Bridge {version}"
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_preprocess_types = False
# Lines end where Python's own would.
maximum_signature_line_length = 88

# The public names by subject. What is in none of the groups is listed at the end, so that nothing is left out.
GROUPS = {
    "Layers": ["Linear", "Sequential", "RowOperation", "from_sklearn"],
    "Products": ["linear", "matmul"],
    "Transformers": ["attention", "embedding", "mean_pool"],
    "Rows": ["softmax", "log_softmax", "layer_norm", "rms_norm", "l2_normalize"],
    "Element by element": ["relu", "sigmoid", "tanh", "silu", "gelu", "scale", "dropout_add"],
    "Files": ["load_file", "save_file"],
    "Threads and memory": [
        *("get_num_threads", "set_num_threads", "threads"),
        *("cache_info", "set_cache_limit", "clear_cache"),
    ],
    "What a call does": ["explain", "Explanation"],
}
OLD = [
    *("sum_of_squares", "matrix_multiply", "parallel_transform"),
    *("matmul_numpy", "matmul_numpy_f32", "parallel_map_numpy", "parallel_map_numpy_f32"),
    *("sum_of_squares_numpy", "sum_of_squares_numpy_f32", "relu_numpy", "relu_numpy_f32"),
    *("sigmoid_numpy", "sigmoid_numpy_f32", "fused_linear", "fused_linear_f32"),
    *("fused_linear_relu", "fused_linear_relu_f32", "fused_dropout_add", "fused_layer_norm", "fused_softmax"),
]


def write_reference(app):
    """Writes api.rst: a directive for each public name."""
    public = [name for name in polyglot_bridge.__all__ if not name.startswith("__")]
    named = {name for names in GROUPS.values() for name in names} | set(OLD)
    missing = [name for name in named if name not in public]
    if missing:
        raise ValueError(f"conf.py names what polyglot_bridge does not have: {', '.join(missing)}")
    groups = {**GROUPS, "More": [name for name in public if name not in named], "The names of 0.2.0": OLD}
    lines = ["API reference", "=============", "", ".. currentmodule:: polyglot_bridge", ""]
    for title, names in groups.items():
        if not names:
            continue
        lines += [title, "-" * len(title), ""]
        for name in names:
            value = getattr(polyglot_bridge, name)
            if isinstance(value, type):
                lines += [f".. autoclass:: {name}", "   :members:", ""]
            else:
                lines += [f".. autofunction:: {name}", ""]
    models = getattr(polyglot_bridge, "models", None)
    if models is not None:
        lines += ["Models", "------", "", ".. currentmodule:: polyglot_bridge.models", ""]
        for name in models.__all__:
            lines += [f".. autoclass:: {name}", "   :members:", ""]
    target = pathlib.Path(app.srcdir) / "api.rst"
    text = "\n".join(lines)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def leave_out_attributes(app, what, name, value, options, lines):
    """Takes the section on attributes out of a class's text: each has an entry of its own below it."""
    if what != "class" or "Attributes" not in lines:
        return
    begin = lines.index("Attributes")
    after = range(begin + 2, len(lines) - 1)
    end = next((at for at in after if lines[at + 1] and set(lines[at + 1]) == {"-"}), len(lines))
    del lines[begin:end]


def setup(app):
    # Before napoleon, which turns sections into directives.
    app.connect("autodoc-process-docstring", leave_out_attributes, priority=100)
    app.connect("builder-inited", write_reference)
