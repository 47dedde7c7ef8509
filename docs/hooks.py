"""MkDocs calls these functions: they add what `generate` makes from the code."""

import generate
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the generated pages in the navigation."""
    for entry in config.nav or ():
        if "Reference" in entry:
            entry["Reference"] = generate.reference_navigation()
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and files."""
    for path, content in generate.files().items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Fill in the generated tables of a page."""
    return generate.fill(markdown, config.repo_url)
