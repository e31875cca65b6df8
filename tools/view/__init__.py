"""The graph visualizer.

document   the schema            build      graphs and recordings as documents
nodes      nodes as records      recorder   a pipeline run, kept (fxquant.Recorder)
memory     a target's plan       compiled   the graph inside a .fxq file
analysis   order, critical path  view       fxquant.view
page_file  the HTML file         dot        for Graphviz
inspect    for a terminal        page/      HTML, CSS and JavaScript of the page
"""
