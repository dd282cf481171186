"""Where the agents and commands of a project run: this machine, or the containers of the project."""
