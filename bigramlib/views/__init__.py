"""How results look in JupyterLab: tables of HTML, and the explorer."""
