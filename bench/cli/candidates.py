import typer

app = typer.Typer()


@app.command("hash")
def h(): ...
