"""`privyseal exec`: runs a command that ends in node, the Capgo CLI above all, with the key at the signing service.

The parts:

words.py     parses the words of the command: which runtime, which Capgo command, whether it must sign
app.py       the app's folder: its configured public key, and private keys that should not be there
agent.py     the signing agent on a Unix socket, which decides what may be signed
child.py     the child process: its environment, signals and exit code
hook.mjs     what node processes load: it asks the agent
config.mjs   evaluates capacitor.config.ts and .js as the Capgo CLI does
"""
