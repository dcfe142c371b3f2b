import time,os,json
from pathlib import Path
from typer.testing import CliRunner
from bench.cli import app
from tests.cli.hostile import *

def test_all(tiny, tmp_path, cli):
    out=open('/tmp/h/hx/out.txt','w')
    files={k:str(v) for k,v in hostile_files(tmp_path).items()}
    cli("run","--method","random,popularity","--target","tiny","--quiet")
    n=0
    only=os.environ.get("ONLY")
    for path,command in commands():
        for p in command.params:
            if getattr(p,'is_flag',False): continue
            for label,value in {**hostile_words(),**files}.items():
                if value.startswith("-") and p.param_type_name=="argument": continue
                w=words_of(path,command,p.name,value)
                if path[0]=='run': continue
                if only and not ' '.join(w).startswith(only): continue
                t0=time.time()
                r=CliRunner().invoke(app,w,prog_name="bench")
                dt=time.time()-t0
                n+=1
                bad = r.exit_code not in (0,1,2) or "unexpected" in r.stderr or "Traceback" in r.output or dt>3 or any(c in r.output for c in "\x1b\u202e\x9b") or not isinstance(r.exception,(SystemExit,type(None)))
                if bad: print(f"{dt:.1f} {r.exit_code} {' '.join(path)} {p.name}={label}: {r.exception!r} {r.stderr[-300:]!r}",file=out,flush=True)
                elif os.environ.get("ALL"): print(f"ok {dt:.1f} {r.exit_code} {' '.join(path)} {p.name}={label}: {r.stderr[-200:]!r}",file=out,flush=True)
    print(n,file=out)
