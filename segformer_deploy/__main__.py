"""`python -m segformer_deploy` is `segdeploy`."""

from segformer_deploy.cli.main import main

if __name__ == "__main__":
    main()
