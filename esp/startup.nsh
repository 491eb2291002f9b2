@echo -off
# The Shell runs this file when the machine starts into the Shell with this volume.
# It says what can be typed, and opens the menu.
if exist kmalloc.efi then
  goto start
endif
for %i in 0 1 2 3 4 5 6 7 8 9
  if exist fs%i:\kmalloc.efi then
    fs%i:
    goto start
  endif
endfor
echo kmalloc.efi was not found on any of fs0: to fs9:. Copy it beside startup.nsh.
exit /b 1

:start
echo kmalloc: a heap, and the tests of it. "kmalloc -?" tells what can be typed:
echo   kmalloc            the menu
echo   kmalloc selftest   every promise of the heap
echo   kmalloc stress     random work with every byte verified
echo   kmalloc info       this machine and its memory
kmalloc.efi
